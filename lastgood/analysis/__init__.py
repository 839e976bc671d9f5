"""Measure and judge: the questions about a release, the gates' verdicts, and what follows from them."""
