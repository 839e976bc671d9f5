"""Measurements, side by side with the usual alternatives: `python -m bench NAME [--quick] [--json]`.

Every figure of a table comes from one run on one machine: ours and the peers take turns, so that a busy moment affects
both, and the ratio says more than either number. `bench all` writes RESULTS.md to this folder.

What does not belong here: pass or fail (that is `tests/`), fakes (everything measured is the real thing).
"""
