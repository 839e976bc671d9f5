"""Several machines on one ledger: which workers are ready on which host, which host decides, which is alive."""
