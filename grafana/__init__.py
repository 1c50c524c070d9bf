"""The Grafana dashboards, one module each; `python -m grafana.generate` writes them to `dashboards/`."""
