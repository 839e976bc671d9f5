"""Traffic through Envoy: its configuration, its process, its files and its reports."""
