"""Hosted models that a provider will switch off: the records, the queries to providers, and the bundles affected."""
