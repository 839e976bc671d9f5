"""A rollout in words: one sentence on how it went, and durations in readable form."""

from __future__ import annotations

from collections.abc import Sequence

from lastgood.bundle.manifest import short
from lastgood.gates import base
from lastgood.reports.record import RolloutRecord


def duration(seconds: float) -> str:
    """A duration in readable form: 12 ms, 3.4 s, 5 min, 2.5 h."""
    if seconds <= 0:
        return "0 s"
    for unit, size in (("days", 86_400.0), ("h", 3600.0), ("min", 60.0), ("s", 1.0)):
        if seconds >= size * (2 if size > 1 else 1):
            return f"{seconds / size:.3g} {unit}"
    return f"{seconds * 1000:.3g} ms"


def headline(chronicle: RolloutRecord) -> str:
    """How the rollout went, in one sentence."""
    name = short(chronicle.candidate)
    ending = chronicle.ending
    if ending is None:
        return _unfinished(chronicle, name)
    took = duration(ending.at - chronicle.revisions[0].at)
    match chronicle.outcome:
        case "released":
            return f"{name} was released after {took}, and no gate rejected it"
        case "given up":
            return f"The release of {name} was given up after {took}, and the bundle is not blamed: {ending.reason}"
        case "called off":
            return f"The release of {name} was called off by {ending.actor} after {took}: {ending.reason}"
    automatically = " automatically" if chronicle.decided else ""
    done = f"taken out{automatically} before its cut-over" if chronicle.outcome == "taken out" else f"rolled back{automatically}"
    if not chronicle.decided:
        return f"{name} was {done} by {ending.actor}, {took} after it was proposed: {ending.reason}"
    return f"{name} was {done}, {took} after it was proposed; {exposure(chronicle)}{visible_for(chronicle, ending.at)}: {ending.reason}"


def exposure(chronicle: RolloutRecord) -> str:
    """How long users had the candidate, as measured."""
    return (
        f"users had been served by it for {duration(chronicle.exposure_s)}"
        if chronicle.exposure_s > 0
        else "no user had received an answer from it"
    )


def visible_for(chronicle: RolloutRecord, until: float) -> str:
    """How long before *until* (Unix seconds) the fault began to show, worded as an estimate; empty if there is none."""
    if chronicle.onset is None:
        return ""
    text = f", and its fault had been visible for an estimated {duration(max(until - chronicle.onset, 0.0))}"
    return text + (f" ({between([until - moment for moment in reversed(chronicle.onset_between)])})" if chronicle.onset_between else "")


def between(seconds: Sequence[float]) -> str:
    """The shortest and longest plausible duration."""
    least, most = (max(value, 0.0) for value in seconds)
    return f"between {duration(least)} and {duration(most)}"


def _unfinished(chronicle: RolloutRecord, name: str) -> str:
    state = chronicle.revisions[-1].state
    since = duration(chronicle.at - chronicle.revisions[0].at)
    if chronicle.outcome == "baking":
        return f"{name} has had all traffic for {duration(chronicle.at - (state.phase_since or chronicle.at))} and is baking"
    held = f", held by {state.hold.actor}: {state.hold.reason}" if state.hold else ""
    return f"{name} has been in progress for {since}: {state.phase}, {state.weight_pct:g} % of the traffic{held}"


def afterwards(chronicle: RolloutRecord) -> str:
    """Whether the rollback helped, in one sentence; empty if there was none."""
    if chronicle.left is None or chronicle.ending is None:
        return ""
    if chronicle.verified is not None:
        return chronicle.verified.reason
    if chronicle.revisions[-1].state.verifying is not None:
        return "whether the rollback helped is being measured"
    return "whether the rollback helped was not measured: no user had received an answer from it, or the service turns this off"


def verdict_text(verdict: base.Verdict) -> str:
    """A verdict in two words."""
    return {"pass": "passed", "fail": "failed", "inconclusive": "cannot tell"}[verdict.outcome]
