"""Layers make the world agree with the ledger; each fails and recovers alone."""
