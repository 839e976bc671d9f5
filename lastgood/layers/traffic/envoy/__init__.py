"""Traffic through Envoy: its configuration, its process, its files and what it says."""
