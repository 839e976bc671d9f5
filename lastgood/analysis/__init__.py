"""Measure and judge: what is asked about a release, what the gates say of it, and what follows from that."""
