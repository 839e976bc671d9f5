"""Who answers: an *arm* is a bundle id, answered by the bundle's own workers, or the control arm of one.

The control arm of a bundle is a second worker of that bundle, started together with the candidate's and given the same load, so
that a comparison of the two sees only the bundles: not a warm cache against a cold one, nor a busy process against an idle one.

What does not belong here: how large an arm is (`state`), where it answers (`layers`).
"""

from __future__ import annotations

from lastgood.bundle.manifest import short

_CONTROL = "+control"


def control_of(bundle_id: str) -> str:
    """The control arm of *bundle_id*."""
    return bundle_id + _CONTROL


def bundle_of(arm: str) -> str:
    """The bundle that answers as *arm*."""
    return arm.removesuffix(_CONTROL)


def label(arm: str) -> str:
    """*arm* in names of files and clusters: the first 12 hex digits, and `-control` for a control arm."""
    bundle_id = bundle_of(arm)
    return short(bundle_id) + ("" if arm == bundle_id else "-control")
