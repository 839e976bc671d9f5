"""How it went: one rollout put together from the ledger, as values, pictures, a page and an incident record."""
