"""Files, processes, signatures, clock and ports of this machine; knows nothing of releases."""
