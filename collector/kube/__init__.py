"""One API server of Kubernetes: its kubeconfig, credentials, connections and errors; lists, watches and execs."""
