"""Layers follow the ledger; each fails and recovers independently."""
