"""Access to one Kubernetes API server: kubeconfig, credentials, connections, errors; lists, watches and execs."""
