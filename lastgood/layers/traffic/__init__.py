"""Traffic: which bundle answers which share of the requests, made true in a proxy."""
