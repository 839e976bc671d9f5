"""Reports about a bundle that lastgood reads again, and the form in which it reads them.

What does not belong here: the content of a report; kinds that are a team's own, which are free-form.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from lastgood import errors

_NUMBER, _TEXT, _OBJECT = (int, float), (str,), (dict,)
_READ: Mapping[str, Mapping[str, tuple[type, ...]]] = {
    "liveness": {"status": _TEXT, "why": _TEXT, "ends_at": (*_NUMBER, type(None))},
    "drift-decision": {"look": _OBJECT, "outcome": _TEXT, "why": _TEXT},
}
"""By kind, the fields that its readers use; this also defines which kinds these are."""
_LOOK: Mapping[str, tuple[type, ...]] = {"alarm": _NUMBER, "number": (int,), "of": (int,), "until": _NUMBER}


def check(kind: str, report: dict[str, Any]) -> dict[str, Any]:
    """*report*, in plain JSON, if the readers of this *kind* accept it. Raises UsageError naming the invalid field."""
    if kind == "offline":
        _check_metrics(report.get("metrics", {}))
    _check(report, _READ.get(kind, {}), what=f"the {kind!r} report")
    if kind == "drift-decision":
        _check(report["look"], _LOOK, what=f"the look of the {kind!r} report")
    return report


def _check(value: Mapping[str, Any], wanted: Mapping[str, tuple[type, ...]], *, what: str) -> None:
    for name, kinds in wanted.items():
        if name not in value or not isinstance(value[name], kinds) or isinstance(value[name], bool):
            said = " or ".join("null" if kind is type(None) else kind.__name__ for kind in kinds)
            raise errors.UsageError(f"{what} needs {name!r} as {said}; write it in that form, or choose another kind of report")


def _check_metrics(metrics: Any) -> None:
    if not isinstance(metrics, dict):
        raise errors.UsageError(f"'metrics' of the 'offline' report has type {type(metrics).__name__}; give an object of names and numbers")
    for name, value in metrics.items():
        if value is not None and (isinstance(value, bool) or not isinstance(value, int | float)):
            raise errors.UsageError(
                f"metric {name[:100]!r} has type {type(value).__name__}; give a number, or null where it could not be measured"
            )
