"""The Grafana dashboards: a module for each, and `python -m grafana.generate` writes them into `dashboards/`."""
