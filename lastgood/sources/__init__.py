"""Numbers for the gates: from the proxy, the inference logs, probes, Prometheus."""
