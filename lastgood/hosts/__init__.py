"""Several machines on one ledger: which workers are ready where, who decides, who is alive."""
