"""One page about one rollout: a single self-contained HTML file to keep, mail and print.

What does not belong here: the data (`record`), how it is plotted (`plots`).
"""

from __future__ import annotations

from importlib import resources
from pathlib import Path
from typing import Any

from lastgood import errors, release
from lastgood.bundle.manifest import short
from lastgood.gates import base
from lastgood.reports import evidence, incident, plots, wording
from lastgood.reports.record import RolloutRecord
from lastgood.system import files, text

NONE = "\u2013"
"""Placeholder for a missing figure."""

MAX_BYTES = 2_000_000
"""Upper limit for the size of a page; plots that would exceed it are left out."""

EXTRA = "a report needs the extra 'report'; install it: pip install 'lastgood[report]'"

_TITLES = {
    "traffic": "Who had the traffic",
    "evidence": "Evidence of the gates against the candidate",
    "latency": "How long answers took",
    "layers": "How the layers followed",
}
_CAPTIONS = {
    "traffic": "Each bundle's share of live requests. Hatched: requests copied to the candidate, whose answers no user saw. "
    "Marks show where gate verdicts moved the release.",
    "evidence": "Each line is the wealth of a bet that the candidate does harm, started at 1, on a scale of powers of ten. A gate fails where its "
    "line crosses the dashed boundary. The line may be read at any time, and crosses by chance no more often than the alpha in service.yaml allows.",
    "latency": "Further left is faster; at the dotted line 99 of 100 answers were ready.",
    "layers": "From the ledger commit until each layer agreed with it. Hatched: it had agreed by then; the exact moment was not recorded.",
}
_ARMS = (
    "Each step is 25 or more requests of that bundle. Dashed: the threshold. Dotted: the estimated change point, when the fault began to show; "
    "shaded: the range of that estimate (95 %)."
)


def write(chronicle: RolloutRecord, out: Path) -> Path:
    """Write the page to *out* and return it. Atomic. Raises Unavailable, or UsageError without the extra `report`."""
    text = html(chronicle)
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        files.write(out, text, kept="fast")
    except OSError as error:
        raise errors.Unavailable(f"cannot write {out}: {error}; name another file with --out") from error
    return out


def html(chronicle: RolloutRecord) -> str:
    """The page as text. All text from people or bundles is escaped; the page refers to no outside address."""
    try:
        import jinja2
    except ImportError as error:
        raise errors.UsageError(EXTRA) from error
    source = resources.files("lastgood.reports").joinpath("report.html.j2").read_text("utf-8")
    environment = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    environment.filters |= {
        "short": _short,
        "moment": text.moment,
        "duration": wording.duration,
        "between": wording.between,
        "figure": _figure,
        "power": _power,
    }
    template = environment.from_string(source)
    return template.render(**_values(chronicle), svgs=_pictures(chronicle))


def _values(chronicle: RolloutRecord) -> dict[str, Any]:
    """The content of the page apart from plots."""
    return {
        "c": chronicle,
        "headline": wording.headline(chronicle),
        "afterwards": wording.afterwards(chronicle),
        "tone": _tone(chronicle),
        "incident": incident.incident_record(chronicle),
        "analyses": [_analysis(one) for one in chronicle.analyses if one.rows],
        "revisions": [_revision(revision) for revision in chronicle.revisions],
        "parts": [_part(change) for change in chronicle.changes],
        "requests": [(digest, chronicle.requests[digest]) for digest in _bundles(chronicle) if digest in chronicle.requests],
        "not_undone": release.NOT_UNDONE if chronicle.left else (),
        "commands": _commands(chronicle),
    }


def _tone(chronicle: RolloutRecord) -> str:
    """good, bad or open: the colour of the headline."""
    return {"released": "good", "taken out": "bad", "rolled back": "bad"}.get(chronicle.outcome, "open")


def _bundles(chronicle: RolloutRecord) -> list[str]:
    return [digest for digest in (chronicle.candidate, chronicle.stable) if digest is not None]


def _pictures(chronicle: RolloutRecord) -> list[dict[str, str]]:
    """The plots as SVG, each with its heading and a caption on how to read it."""
    import markupsafe

    made: list[dict[str, str]] = []
    for number, (name, figure) in enumerate(plots.every(chronicle).items()):
        gate = name.removeprefix("arms-")
        title = plots.title_of(figure)
        svg = plots.svg(figure, name=f"p{number}", title=title)
        if sum(len(one["svg"]) for one in made) + len(svg) > MAX_BYTES * 0.8:
            continue
        heading = _TITLES.get(name, f"What gate '{gate}' measured for both bundles")
        made.append({"name": name, "heading": heading, "caption": _CAPTIONS.get(name, _ARMS), "svg": markupsafe.Markup(svg)})  # noqa: S704  # matplotlib has escaped its texts
    return made


# --- tables ------------------------------------------------------------------------------------------------


def _analysis(one: evidence.MeasuredAnalysis) -> dict[str, Any]:
    titles = {
        "shadow": "Shadow: answers to copied requests",
        "canary": "Canary: compared with stable",
        "bake": "Bake: alone, after the cut-over",
        "watch": "Watch: alone, long after the cut-over",
        "verify": "After the rollback: is stable healthy?",
    }
    gates = [_gate(trail) for trail in one.trails.values()]
    return {
        "title": titles[one.kind],
        "seconds": one.ended - min(trail.points[0].at for trail in one.trails.values()),
        "rows": one.rows,
        "gates": gates,
    }


def _gate(trail: evidence.Trail) -> dict[str, Any]:
    verdict = trail.verdict
    return {
        "verdict": verdict,
        "outcome": wording.verdict_text(verdict),
        "share": None if verdict.evidence is None or not verdict.boundary else max(0.0, min(1.0, verdict.evidence / verdict.boundary)),
        "figures": f"{_amount(verdict, verdict.estimate)} / {_amount(verdict, verdict.reference)}",
        "interval": _interval(verdict),
    }


def _amount(verdict: base.Verdict, value: float | None) -> str:
    """A figure in the unit of its metric."""
    if value is None:
        return NONE
    if verdict.metric in ("error_rate", "agreement", "latency_p99", "sample_ratio"):
        return f"{100 * value:.3g} %"
    return f"{value:.4g}"


def _interval(verdict: base.Verdict) -> str:
    if verdict.interval is None:
        return NONE
    scale, unit = (100, " points") if verdict.metric in ("error_rate", "agreement", "latency_p99", "sample_ratio") else (1, "")
    low, high = (f"{scale * bound:+.3g}" for bound in verdict.interval)
    return f"{low} to {high}{unit}"


def _revision(revision: Any) -> dict[str, Any]:
    state = revision.state
    return {
        "number": revision.number,
        "at": revision.at,
        "verb": revision.verb,
        "actor": revision.actor,
        "reason": revision.reason,
        "phase": "verifying" if state.verifying and state.phase == "idle" else state.phase,
        "weight_pct": state.weight_pct if state.candidate else (100.0 if state.phase == "baking" else 0.0),
        "marks": [(mark.bundle, mark.kind) for mark in revision.marks],
    }


def _part(change: Any) -> dict[str, Any]:
    sides = {"before": change.before, "after": change.after}
    digests = {side: short(part.digest) if part else NONE for side, part in sides.items()}
    meta = [(key, _brief(old), _brief(new)) for key, (old, new) in change.meta.items()] if change.change == "changed" else []
    return {"name": change.name, "change": change.change, **digests, "meta": meta}


def _commands(chronicle: RolloutRecord) -> list[tuple[str, str]]:
    """Commands for further details, exactly as they are typed."""
    service, candidate = chronicle.service, short(chronicle.candidate)
    found = [("what serves now", f"lastgood status {service}"), ("every change", f"lastgood history {service}")]
    if chronicle.ending is None:
        found += [("watch it", f"lastgood watch {service}"), ("stop it", f"lastgood rollback {service} stable")]
    if chronicle.stable:
        found.append(("what differs", f"lastgood diff {service} {short(chronicle.stable)} {candidate}"))
    found += [
        ("the bundle", f"lastgood show {service} {candidate}"),
        ("these figures as JSON", f"lastgood report {service} --rollout {chronicle.rollout} --json"),
    ]
    if chronicle.left:
        found.append(("release it anyway", f"lastgood promote {service} {candidate} --override-quarantine --reason '…'"))
    if chronicle.revisions[-1].state.hold is not None:
        found.append(("allow releases again", f"lastgood release-hold {service} --reason '…'"))
    return [*found, ("prove that nothing has changed since", f"lastgood audit verify {service}")]


# --- filters -----------------------------------------------------------------------------------------------


def _short(digest: str | None) -> str:
    return short(digest) if digest else "nothing"


def _figure(value: float) -> str:
    return f"{value:,}" if isinstance(value, int) else f"{value:,.3g}"


def _power(value: float) -> str:
    """A power of ten; a number cannot contain markup."""
    import markupsafe

    return markupsafe.Markup("10<sup>{}</sup>").format(f"{value:.1f}")


def _brief(value: object) -> str:
    text = "none" if value is None else str(value)
    return text if len(text) <= 80 else text[:77] + "…"
