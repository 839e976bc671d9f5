"""Hosted models that a provider will switch off: what is recorded, where it is asked, whom it concerns."""
