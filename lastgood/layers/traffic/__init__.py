"""Traffic: which bundle answers which share of the requests, implemented in a proxy."""
