"""Measurements, side by side with what one would otherwise use: `python -m bench NAME [--quick] [--json]`.

Every figure of a table comes from one run on one machine: ours and the peers take turns, so that a busy moment hits
both, and the ratio says more than either number. `bench all` writes RESULTS.md beside this file.

What does not belong here: pass or fail (that is `tests/`), fakes (everything measured is the real thing).
"""
