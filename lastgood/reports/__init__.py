"""Reports on one rollout, assembled from the ledger: values, plots, a page and an incident record."""
