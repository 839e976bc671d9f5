"""Numbers for the gates: from the proxy, the logs of predictions, probes, Prometheus."""
