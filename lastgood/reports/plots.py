"""Plots of a rollout: which bundle had the traffic, what the gates measured, how fast the layers followed.

Each function returns a new matplotlib Figure, or None if there is nothing to show; no state is shared, so threads may draw
concurrently. `svg` and `png` convert a figure to text for a page or to bytes for other uses (`figure`).

The colours are those of Okabe and Ito, distinguishable with any colour vision; shapes and text carry the same information.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from lastgood.bundle.manifest import short
from lastgood.gates import base
from lastgood.reports import evidence as report_evidence
from lastgood.reports import figure as report_figure
from lastgood.reports import wording
from lastgood.reports.figure import BAD, CANDIDATE, GOOD, GREY, INK, OTHER, STABLE, png, svg, title_of
from lastgood.reports.record import RolloutRecord
from lastgood.service import gates as service_gates

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["arms", "every", "evidence", "latency", "pictures", "png", "svg", "title_of", "traffic", "waterfall"]

ENOUGH = 25
"""Minimum number of requests behind one point of a curve; among five, a single failure would be a peak of 20 %."""

UNITS = {"error_rate": "requests that failed (%)", "latency_p99": "P99 of the time to answer (ms)", "agreement": "answers that differ (%)"}


def traffic(chronicle: RolloutRecord) -> Figure:
    """Each bundle's share of the traffic over time, with the phases, and a tick wherever a gate's verdict moved the release."""
    with report_figure.drawing(2.9) as (figure, axes):
        clock = _Clock(chronicle)
        bundles = _order(chronicle)
        edges = [clock.of(moment) for segment in chronicle.segments for moment in (segment.start, segment.end)]
        heights = [[segment.shares.get(digest, 0.0) for segment in chronicle.segments for _ in range(2)] for digest in bundles]
        colours = [_colour(chronicle, digest) for digest in bundles]
        axes.stackplot(edges, heights, colors=colours, labels=[_name(chronicle, digest) for digest in bundles], linewidth=0)
        _mirror(axes, chronicle, clock)
        _phases(axes, chronicle, clock)
        _ticks(axes, chronicle, clock)
        axes.set(xlim=(edges[0], max(edges[-1], edges[0] + 1e-3)), ylim=(0, 100), xlabel=clock.label, ylabel="share of the traffic (%)")
        axes.set_title(_plain(_traffic_title(chronicle)), pad=24)
        axes.xaxis.set_major_locator(_round_numbers())
        _legend(figure, axes)
    return figure


def evidence(chronicle: RolloutRecord) -> Figure | None:
    """The evidence of each gate with a sequential test, against the boundary at which it fails; one panel per gate."""
    analysis = chronicle.last_analysis
    shown = {name: t for name, t in analysis.trails.items() if t.verdict.evidence is not None} if analysis else {}
    if not analysis or not shown:
        return None
    with report_figure.drawing(0.75 + 1.45 * len(shown), rows=len(shown)) as (figure, panels):
        clock = _Clock(chronicle)
        for axes, (name, trail) in zip(panels, shown.items(), strict=True):
            _path(axes, chronicle, clock, name=name, trail=trail)
        panels[-1].set(xlabel=clock.label, xlim=(clock.of(_first_point(shown)), clock.of(analysis.ended)))
        panels[-1].xaxis.set_major_locator(_round_numbers())
    return figure


def arms(chronicle: RolloutRecord, gate: str) -> Figure | None:
    """What *gate* measured for both arms over time, with the threshold: a share, a P99 or a mean."""
    parts = [(one, one.trails[gate]) for one in chronicle.analyses if gate in one.trails and one.trails[gate].stretches]
    figure_of = _figure_of(parts[0][1].verdict.metric) if parts else None
    if not figure_of:
        return None
    with report_figure.drawing(2.6) as (figure, axes):
        clock = _Clock(chronicle)
        for analysis, trail in parts:
            for side, digest in (("beside", analysis.beside), ("watched", analysis.watched)):
                _line(axes, chronicle, clock, digest=digest, points=_series(trail.stretches, side, figure_of, cut=chronicle.onset))
        _limits(axes, chronicle, clock, gate=gate)
        metric = parts[-1][1].verdict.metric
        axes.set(xlabel=clock.label, ylabel=UNITS.get(metric, "mean of the score"))
        axes.set_ylim(bottom=0 if metric in UNITS else None)
        axes.grid(visible=True, axis="y")
        _onset(axes, chronicle, clock)
        axes.set_title(_plain(_arms_title(gate, parts)))
        axes.xaxis.set_major_locator(_round_numbers())
        _legend(figure, axes)
    return figure


def latency(chronicle: RolloutRecord) -> Figure | None:
    """Share of each bundle's answers that was ready within a given number of milliseconds (cumulative distributions)."""
    if not chronicle.times:
        return None
    with report_figure.drawing(2.8) as (figure, axes):
        for digest in sorted(chronicle.times, key=lambda one: one == chronicle.candidate):
            curve = chronicle.times[digest]
            arm = ", control arm" if digest == chronicle.stable and any(one.state.control for one in chronicle.revisions) else ""
            label = f"{_name(chronicle, digest)}{arm}, {curve.n:,} answers"
            # Before the first bucket nothing was ready.
            axes.step([curve.ms[0] * 0.8, *curve.ms], [0.0, *(100 * share for share in curve.share)], where="post", label=_plain(label),
                      color=_colour(chronicle, digest), linestyle=_style(chronicle, digest), linewidth=1.8)  # fmt: skip
        axes.axhline(99, color=GREY, linewidth=0.8, linestyle=":")
        axes.annotate("99 %", (0.005, 98), xycoords=("axes fraction", "data"), ha="left", va="top", color=GREY, fontsize=8.5)
        axes.set(xscale="log", ylim=(0, 101), xlabel="time to answer (ms, log scale)", ylabel="answers that were ready (%)")
        _plain_log_scale(axes)
        axes.grid(visible=True)
        axes.set_title(_plain(_latency_title(chronicle)))
        axes.legend(loc="lower right")
    return figure


def waterfall(chronicle: RolloutRecord) -> Figure | None:
    """Milliseconds from the commit until each layer followed the revision that ended the rollout."""
    rows = sorted((one for one in chronicle.followed if one.ms is not None), key=lambda one: one.ms or 0.0)
    if not rows:
        return None
    with report_figure.drawing(0.95 + 0.36 * len(rows)) as (figure, axes):
        for place, one in enumerate(rows):
            at_most = one.at_most
            axes.barh(place, one.ms or 0.0, color="white" if at_most else GOOD, edgecolor=GREY if at_most else GOOD,
                      hatch="///" if at_most else None, height=0.6)  # fmt: skip
            told = f"{'at most ' if at_most else ''}{wording.duration((one.ms or 0.0) / 1000)}"
            axes.annotate(told, (one.ms or 0.0, place), xytext=(4, 0), textcoords="offset points", va="center", fontsize=9)
        axes.set_yticks(range(len(rows)), [_plain(one.layer) for one in rows])
        axes.invert_yaxis()
        axes.margins(x=0.25)
        axes.set_xlabel("from the commit until the layer agreed (ms)")
        slowest = rows[-1]
        axes.set_title(
            _plain(
                f"{slowest.layer} was the last to converge, after {'at most ' if slowest.at_most else ''}{wording.duration((slowest.ms or 0) / 1000)}"
            )
        )
    return figure


def every(chronicle: RolloutRecord) -> dict[str, Figure]:
    """All plots that have something to show, by name, in the order of a report."""
    gates = [verdict.gate for verdict in (chronicle.fired,) if verdict]
    analysis = chronicle.last_analysis
    trails_ = analysis.trails if analysis else {}
    gates += [name for name, trail in trails_.items() if trail.verdict.metric == "error_rate" and name not in gates]
    made: dict[str, Figure | None] = {"traffic": traffic(chronicle)}
    made |= {f"arms-{gate}": arms(chronicle, gate) for gate in gates}
    made |= {"evidence": evidence(chronicle), "latency": latency(chronicle), "layers": waterfall(chronicle)}
    return {name: figure for name, figure in made.items() if figure is not None}


def pictures(chronicle: RolloutRecord, *, max_bytes: int = 300_000) -> dict[str, bytes]:
    """PNG images by name, the most informative first, as many as fit into *max_bytes* in total."""
    kept: dict[str, bytes] = {}
    for name, figure in every(chronicle).items():
        data = png(figure)
        if sum(map(len, kept.values())) + len(data) <= max_bytes:
            kept[name] = data
    return kept


# --- parts of plots ----------------------------------------------------------------------------------------


class _Clock:
    """Unix seconds as time since the start of the plot, in a unit that gives readable numbers."""

    def __init__(self, chronicle: RolloutRecord) -> None:
        span = chronicle.ended - chronicle.began
        self.unit, self._unit_s = next((unit, s) for unit, s, most in _CLOCK_UNITS if span < most)
        self._zero = chronicle.began
        since = "the release was proposed" if chronicle.segments[0].revision == chronicle.rollout else "this picture begins"
        self.label = f"time since {since} ({self.unit})"

    def of(self, moment: float) -> float:
        return (moment - self._zero) / self._unit_s


_CLOCK_UNITS = (("s", 1.0, 300.0), ("min", 60.0, 3 * 3600.0), ("h", 3600.0, 4 * 86_400.0), ("days", 86_400.0, float("inf")))


def _mirror(axes: Axes, chronicle: RolloutRecord, clock: _Clock) -> None:
    for segment in chronicle.segments:
        if segment.mirror_pct:
            axes.fill_between([clock.of(segment.start), clock.of(segment.end)], 0, segment.mirror_pct, facecolor="none",
                              edgecolor=CANDIDATE, hatch="//", linewidth=0)  # fmt: skip
    if any(segment.mirror_pct for segment in chronicle.segments):
        axes.fill_between([], [], facecolor="none", edgecolor=CANDIDATE, hatch="//", label="copied to the candidate")


def _phases(axes: Axes, chronicle: RolloutRecord, clock: _Clock) -> None:
    """The name of each phase over its duration, where there is room; a line at its start."""
    span = max(clock.of(chronicle.ended), 1e-9)
    groups: list[tuple[str, float, float]] = []
    for segment in chronicle.segments:
        name = _phase_name(chronicle, segment)
        start, end = clock.of(segment.start), clock.of(segment.end)
        if groups and groups[-1][0] == name:
            groups[-1] = name, groups[-1][1], end
        else:
            groups.append((name, start, end))
    for name, start, end in groups:
        axes.axvline(start, color="white", linewidth=1.2)
        if (end - start) / span > 0.011 * len(name) + 0.012:
            axes.annotate(name, ((start + end) / 2, 100), xytext=(0, 4), textcoords="offset points", ha="center", va="bottom", fontsize=8.5)


def _phase_name(chronicle: RolloutRecord, segment: Any) -> str:
    share = segment.shares.get(chronicle.candidate)
    if segment.held:
        return "held"
    return f"canary {share:g} %" if segment.phase == "canary" and share else str(segment.phase)


def _ticks(axes: Axes, chronicle: RolloutRecord, clock: _Clock) -> None:
    """A mark where verdicts led to a revision: up if they passed, a cross if one failed, a square if one was inconclusive."""
    shapes = {"pass": ("^", GOOD, "gates passed"), "fail": ("X", BAD, "a gate failed"), "inconclusive": ("s", GREY, "no verdict")}
    named: set[str] = set()
    for revision in chronicle.revisions:
        outcomes = {verdict.get("outcome") for verdict in revision.evidence.get("verdicts", ())}
        worst = next((outcome for outcome in ("fail", "inconclusive", "pass") if outcome in outcomes), None)
        if worst is None or revision.at < chronicle.began:
            continue
        shape, colour, words = shapes[worst]
        label = None if worst in named else words
        named.add(worst)
        axes.plot([clock.of(revision.at)], [50], shape, color=colour, markeredgecolor="white", markersize=11, clip_on=False, label=label,
                  linestyle="none", zorder=5)  # fmt: skip


def _path(axes: Axes, chronicle: RolloutRecord, clock: _Clock, *, name: str, trail: report_evidence.Trail) -> None:
    points = [point for point in trail.points if point.evidence is not None]
    moments, values = [clock.of(point.at) for point in points], [point.evidence or 0.0 for point in points]
    failed = trail.verdict.outcome == "fail"
    colour = BAD if failed else STABLE
    axes.plot(moments, values, color=colour, linewidth=1.8, drawstyle="steps-post")
    axes.plot(moments[-1:], values[-1:], "X" if failed else "o", color=colour, markersize=7, clip_on=False)
    boundary = trail.verdict.boundary or 0.0
    axes.axhline(boundary, color=INK, linewidth=1.1, linestyle="--")
    axes.annotate(f"fails at {_power(boundary)}", (0.005, boundary), xycoords=("axes fraction", "data"), xytext=(0, 2),
                  textcoords="offset points", fontsize=8.5)  # fmt: skip
    low, high = min([*values, -0.3]), max([*values, boundary])
    axes.set_ylim(low - 0.12 * (high - low), high + 0.28 * (high - low))
    axes.yaxis.set_major_locator(_whole_numbers())
    axes.yaxis.set_major_formatter(lambda value, _: _power(value))
    axes.grid(visible=True, axis="y")
    axes.set_ylabel("evidence")
    _onset(axes, chronicle, clock)
    said = "crossed its boundary" if values[-1] >= boundary else "stayed below its boundary"
    axes.set_title(_plain(f"{name}: the evidence of harm {said}"))


def _first_point(shown: Mapping[str, report_evidence.Trail]) -> float:
    return min(trail.points[0].at for trail in shown.values())


def _whole_numbers() -> Any:
    from matplotlib.ticker import MaxNLocator

    return MaxNLocator(nbins=5, integer=True)


def _power(value: float) -> str:
    """A power of ten as plain text: 10^3, or 10^2.7."""
    return f"$10^{{{value:.1f}}}$".replace(".0}", "}").replace("-0}", "0}")


def _onset(axes: Axes, chronicle: RolloutRecord, clock: _Clock) -> None:
    if chronicle.onset is not None and chronicle.onset >= chronicle.began:
        axes.axvline(clock.of(chronicle.onset), color=BAD, linewidth=1, linestyle=":", label="the fault begins to show (estimate)")
        if chronicle.onset_between:
            earliest, latest = (clock.of(max(moment, chronicle.began)) for moment in chronicle.onset_between)
            low, high = axes.get_xlim()
            axes.axvspan(earliest, latest, color=BAD, alpha=0.08, linewidth=0, label="range of that estimate (95 %)")
            axes.set_xlim(low, high)


_Figure = Callable[[Any], float | None]


def _figure_of(metric: str) -> _Figure | None:
    """How a tally of this metric is plotted; None for metrics that are not plotted as a curve."""
    if metric in ("error_rate", "agreement"):
        return lambda tally: 100 * tally.bad / tally.n if tally.n else None
    if metric == "score":
        return lambda tally: tally.total / tally.n if tally.n else None
    if metric in ("latency_p99", "promql"):
        return lambda tally: tally.value
    return None


def _series(stretches: Sequence[report_evidence.Stretch], side: str, figure_of: _Figure, *, cut: float | None) -> list[tuple[float, float]]:
    """One arm's figures as steps of (time, figure).

    Intervals are joined until they hold enough requests for a figure that is not mostly noise, but never across the moment *cut*.
    """
    found: list[tuple[float, float]] = []
    held, start = base.EMPTY, None
    for stretch in stretches:
        tally = getattr(stretch, side)
        if tally is None or not tally.n:
            continue
        start = stretch.start if start is None else start
        value = tally.value if held.value is None else max(held.value, tally.value or 0.0)
        held = base.Tally(n=held.n + tally.n, bad=held.bad + tally.bad, total=held.total + tally.total, value=value)
        shown = figure_of(held)
        over = held.n >= ENOUGH or stretch is stretches[-1] or (cut is not None and start < cut <= stretch.end)
        if shown is not None and over:
            found += [(start, shown), (stretch.end, shown)]
            held, start = base.EMPTY, None
    return found


def _line(axes: Axes, chronicle: RolloutRecord, clock: _Clock, *, digest: str | None, points: list[tuple[float, float]]) -> None:
    if digest is None or not points:
        return
    name = _plain(_name(chronicle, digest))
    known = {line.get_label() for line in axes.get_lines()}
    axes.plot(
        [clock.of(at) for at, _ in points],
        [value for _, value in points],
        color=_colour(chronicle, digest),
        linestyle=_style(chronicle, digest),
        linewidth=1.8,
        label="_" if name in known else name,
    )


def _limits(axes: Axes, chronicle: RolloutRecord, clock: _Clock, *, gate: str) -> None:
    """The last threshold that applied to *gate*, over the time in which it judged the release: not while a rollback is verified."""
    judged = [one for one in chronicle.analyses if gate in one.trails and one.kind != "verify"]
    limit = _limit(judged[-1], gate) if judged else None
    if limit is not None:
        start = clock.of(max(min(one.began for one in judged), chronicle.began))
        end = clock.of(max(one.ended for one in judged))
        axes.plot([start, end], [limit, limit], color=INK, linewidth=1.1, linestyle="--", label=f"threshold {limit:.3g}")


def _limit(analysis: report_evidence.MeasuredAnalysis, name: str) -> float | None:
    """Stable's figure plus the margin where the two were compared, else the fixed limit; in the unit of the plot."""
    gate, verdict = analysis.trails[name].gate, analysis.trails[name].verdict
    if isinstance(gate, service_gates.LatencyP99):
        return gate.max_ms
    if isinstance(gate, service_gates.Agreement):
        return 100 * (1 - gate.min)
    if isinstance(gate, service_gates.Query) and gate.max is not None:
        return gate.max
    margin = getattr(gate, "margin", None)
    if verdict.reference is None or margin is None:
        return None
    if isinstance(gate, service_gates.Score) and not gate.lower_is_better:
        margin = -margin
    limit = verdict.reference + (margin if analysis.mode == "compare" else 0.0)
    return 100 * limit if isinstance(gate, service_gates.ErrorRate) else limit


def _legend(figure: Figure, axes: Axes) -> None:
    """Below the plot, in as many rows as needed."""
    handles, labels = axes.get_legend_handles_labels()
    if labels:
        figure.legend(handles, labels, loc="outside lower center", ncols=min(len(labels), 3))


def _round_numbers() -> Any:
    from matplotlib.ticker import MaxNLocator

    return MaxNLocator(nbins=10, steps=[1, 2, 3, 5, 10])


def _plain_log_scale(axes: Axes) -> None:
    """1, 2, 5, 10, 20: round numbers."""
    from matplotlib.ticker import LogLocator, NullLocator

    axes.xaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(lambda value, _: f"{value:g}")


def _order(chronicle: RolloutRecord) -> list[str]:
    """Stable at the bottom, the candidate above it, any other bundle that served on top."""
    seen = {digest for segment in chronicle.segments for digest in segment.shares}
    first = [digest for digest in (chronicle.stable, chronicle.candidate) if digest in seen]
    return [*first, *sorted(seen - set(first))]


def _colour(chronicle: RolloutRecord, digest: str) -> str:
    return CANDIDATE if digest == chronicle.candidate else STABLE if digest == chronicle.stable else OTHER


def _style(chronicle: RolloutRecord, digest: str) -> str:
    return "-" if digest == chronicle.candidate else "--"


def _name(chronicle: RolloutRecord, digest: str) -> str:
    role = "candidate" if digest == chronicle.candidate else "stable" if digest == chronicle.stable else "other"
    return f"{role} {short(digest)}"


def _plain(text: str) -> str:
    """*text* with everything escaped that matplotlib would read as a formula."""
    return text.replace("$", r"\$")


# --- text in plots -----------------------------------------------------------------------------------------


def _traffic_title(chronicle: RolloutRecord) -> str:
    most = max((segment.shares.get(chronicle.candidate, 0.0) for segment in chronicle.segments), default=0.0)
    said = {
        "taken out": f"The candidate had at most {most:g} % of the traffic before it was taken out",
        "rolled back": "The candidate had become stable and was rolled back",
        "released": "The candidate has become stable",
        "baking": "The candidate has all traffic and is being watched",
        "given up": f"The release was given up; the candidate had at most {most:g} % of the traffic",
        "called off": f"The release was called off; the candidate had at most {most:g} % of the traffic",
    }
    return said.get(
        chronicle.outcome, f"The candidate has {chronicle.segments[-1].shares.get(chronicle.candidate, 0.0):g} % of the traffic so far"
    )


def _arms_title(gate: str, parts: Sequence[tuple[report_evidence.MeasuredAnalysis, report_evidence.Trail]]) -> str:
    judged = [trail for analysis, trail in parts if analysis.kind != "verify"] or [parts[-1][1]]
    verdict = judged[-1].verdict
    scale, unit = (100, " %") if verdict.metric in ("error_rate", "agreement") else (1, "")
    came = {"pass": "passed", "fail": "failed", "inconclusive": "could not tell"}[verdict.outcome]
    if verdict.estimate is None:
        return f"{gate} {came}"
    if verdict.metric == "error_rate" and verdict.reference is not None:
        than = "of stable's" if judged[-1].beside is not None else "are allowed"
        return (
            f"{scale * verdict.estimate:.2g} % of the candidate's requests failed, {scale * verdict.reference:.2g} % {than}: {gate} {came}"
        )
    if isinstance(judged[-1].gate, service_gates.LatencyP99):
        slow, limit = 100 * verdict.estimate, judged[-1].gate.max_ms
        return f"{slow:.2g} % of the candidate's answers took longer than {limit:g} ms, where 1 % is allowed: {gate} {came}"
    beside = f" against {scale * verdict.reference:.3g}{unit}" if verdict.reference is not None else ""
    return f"{gate} {came}: {scale * verdict.estimate:.3g}{unit}{beside}"


def _latency_title(chronicle: RolloutRecord) -> str:
    curve, beside = chronicle.times.get(chronicle.candidate), chronicle.times.get(chronicle.stable or "")
    if curve is None:
        return "Time to answer"
    against = f", of stable's within {wording.duration(beside.at(0.99) / 1000)}" if beside else ""
    return f"99 % of the candidate's answers came within {wording.duration(curve.at(0.99) / 1000)}{against}"
