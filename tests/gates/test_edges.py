"""Exactly at a limit, exactly what a reading says, and the parts of each rule one by one: small, exact, without chance."""

from __future__ import annotations

import math
import types
from typing import Any

import pytest

from lastgood.gates import base, confidence, eprocess, error_rate, gauges, persistence, proportions, scores
from lastgood.gates import gate as gate_run
from lastgood.gates import sample_ratio as split
from lastgood.gates.base import Observation, Tally
from lastgood.gates.evaluator import Reading, Setup, Unset, share_text
from lastgood.service import gates
from tests.gates.paths import GATES, START

QUERY = gates.Query(metric="promql", query="queue{arm='$arm'}", max=50.0, margin=5.0, persistence=2, window_s=10, min_samples=3)


def setup(mode: base.Mode = "compare", *, reference: Tally | None = None) -> Setup:
    """A gate that began at START."""
    return Setup(mode=mode, alpha=0.01, since=START, reference=reference)


def gauge(*values: float, beside: float | None = None, limit: float | None = 50.0, margin: float | None = 5.0) -> gauges.Gauge:
    """One value in each window of ten seconds, beside the same value of stable each time."""
    made = gauges.Gauge(QUERY, setup(), limit=limit, margin=margin)
    for place, value in enumerate(values):
        other = None if beside is None else Tally(n=1, value=beside)
        made.take(Observation(at=START + 10.0 * place + 5, watched=Tally(n=1, value=value), beside=other), step=0)
    return made


# --- figures -----------------------------------------------------------------------------------------------


def test_a_reading_of_a_figure_has_all_of_it() -> None:
    """With a limit, with stable beside it, with both, and with neither."""
    rest: dict[str, Any] = {
        "harm": "a window over the threshold", "passes": "within", "estimate": 14.0, "streak": 0, "persistence": 2, "needs": 0,
    }  # fmt: skip
    shown = "promql 14 (newest of 4 probes), "
    both = gauge(14, 14, 14, 14, beside=10.0).read()
    assert both == Reading(story=f"{shown}50 allowed, 10 of stable, 5 more allowed", reference=50.0, **rest)
    assert gauge(14, 14, 14, 14, margin=None).read() == Reading(story=f"{shown}50 allowed", reference=50.0, **rest)
    only_beside = gauge(14, 14, 14, 14, beside=10.0, limit=None).read()
    assert only_beside == Reading(story=f"{shown}10 of stable, 5 more allowed", reference=10.0, **rest)
    neither = gauge(14, 14, 14, 14, limit=None, margin=None).read()
    lacks = "no value of stable to compare with"
    assert neither == Reading(story=f"{shown}no value to compare with", lacks=lacks, **{**rest, "passes": None, "needs": None})
    assert gauge().read() == Reading(
        story="no value of promql yet", reference=50.0, **{**rest, "passes": None, "estimate": None, "needs": None}
    )


@pytest.mark.parametrize(
    ("value", "beside", "over"),
    [
        (50.0, None, False), (50.01, None, True),  # the limit itself is allowed
        (15.0, 10.0, False), (15.01, 10.0, True),  # and so is stable's figure with the margin
        (50.01, 60.0, True), (12.0, 60.0, False),
    ],
)  # fmt: skip
def test_a_figure_at_its_limit_is_within(value: float, beside: float | None, over: bool) -> None:
    """What is over either limit is over."""
    found = gauge(value, value, value, beside=beside)
    assert (found.read().lacks.startswith("over the threshold"), found.read().streak) == (over, 2 if over else 0)


@pytest.mark.parametrize(
    ("value", "beside", "margin", "shared"),
    [
        (60.0, 50.0, 20.0, False), (60.0, 50.01, 20.0, True),  # stable at the limit is within it
        (65.01, 60.0, 5.0, False), (65.0, 60.0, 5.0, True),  # the watched one at the margin is not much above it
        (99.0, 60.0, None, True), (99.0, None, None, False),
    ],
)  # fmt: skip
def test_stable_over_the_limit_as_well_is_no_reason_to_blame(
    value: float, beside: float | None, margin: float | None, shared: bool
) -> None:
    """Either it fails, or both are over: never both, never neither."""
    found = gauge(value, value, value, beside=beside, margin=margin)
    assert (found.fails(), found.both()) == ((None, True) if shared else ("persistence", False))


def test_below_the_limit_nothing_fails_and_nothing_is_shared() -> None:
    """Whatever stable does."""
    found = gauge(40, 40, 40, beside=60.0)
    assert (found.fails(), found.both()) == (None, False)


@pytest.mark.parametrize(("looks", "needs", "passes"), [(1, 2, None), (2, 1, None), (3, 0, "within"), (4, 0, "within")])
def test_events_say_all_of_it(looks: int, needs: int, passes: base.Cause | None) -> None:
    """Kills so far, against the number at which it fails."""
    made = gauges.Events(gates.OutOfMemory(metric="oom_kills", max_kills=2, min_samples=3), limit=2, noun="kills")
    for place in range(looks):
        made.take(Observation(at=START + place, watched=Tally(n=1, value=1.0)), step=0)
    story = f"kills: 1 in {looks} measurements, fails at 2"
    assert made.read() == Reading(story=story, harm="2 kills", passes=passes, estimate=1.0, reference=2.0, needs=needs)
    assert made.fails() is None


def test_a_gate_without_a_limit_says_which_setting_is_missing() -> None:
    """Each kind by its own name, and it neither passes nor fails."""
    missing = "no limit to compare with: no value of an earlier stable is known; set {} on this gate"
    alone = QUERY.model_copy(update={"max": None})
    for made, named in (
        (gauges.query(alone, setup("alone")), "'max'"),
        (gauges.query(alone.model_copy(update={"margin": None}), setup("alone", reference=Tally(n=1, value=1.0))), "'max'"),
        (error_rate.errors(GATES["errors"], setup("alone")), "'max'"),  # type: ignore[arg-type]
        (scores.scores(GATES["brier"], setup("alone")), "'limit'"),  # type: ignore[arg-type]
    ):
        assert isinstance(made, Unset)
        assert made.read() == Reading(story="nothing to compare with", lacks=missing.format(named))
        assert (made.fails(), made.both()) == (None, False)


# --- the split ---------------------------------------------------------------------------------------------


def shared(watched: int, beside: int | None, *, share: float | None = 0.5) -> split.Split:
    """One look at so many requests of each arm; the least is 200."""
    made = split.Split(GATES["split"], setup())  # type: ignore[arg-type]
    made.take(Observation(at=START + 1, watched=Tally(n=watched), beside=None if beside is None else Tally(n=beside), share=share), step=0)
    return made


def test_a_reading_of_a_split_has_all_of_it() -> None:
    """Before anything was seen, and with just enough requests at either edge of the band."""
    nothing = shared(200, None)
    boundary = setup().boundary + math.log(split.SURER)
    assert nothing.read() == Reading(story="no traffic split observed yet", evidence=0.0, boundary=boundary)
    for watched, beside in ((200, 600), (600, 200)):
        found = shared(watched, beside)
        assert found.read() == Reading(
            story=f"{100 * watched / 800:.1f} % of 800 requests where 50.0 % is requested, 25.0 % to 75.0 % allowed",
            harm="a split outside the allowed range",
            passes="within",
            estimate=watched / 800,
            reference=0.5,
            evidence=found._wealth.log_e,
            boundary=boundary,
            needs=0,
        )
    assert shared(199, 597).read().passes is None
    assert shared(199, 597).read().needs == 1
    outside = shared(199, 601).read()
    assert (outside.passes, outside.needs) == (None, None)


def test_evidence_that_reaches_its_boundary_fails() -> None:
    """At the boundary itself already: the guarantee holds there."""
    found = shared(600, 200)
    found._boundary = found._wealth.log_e
    assert found.fails() == "sequential"
    found._boundary = math.nextafter(found._wealth.log_e, math.inf)
    assert found.fails() is None


def test_the_band_of_a_split_takes_no_more_from_either_arm_than_is_allowed() -> None:
    """Half of 5 % either way; at 90 % the other arm may lose half of its tenth and no more."""
    assert eprocess.band(0.05, 0.5) == (0.025, pytest.approx(0.075))
    assert eprocess.band(0.9, 0.5) == (0.45, pytest.approx(0.95))


# --- ceilings ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("over", "reaches", "in_windows", "worse", "excused"),
    [
        (False, False, False, False, False),
        (True, False, False, False, True),
        (False, True, False, False, True),
        (False, False, True, False, True),
        (True, True, True, True, False),
    ],
)
def test_stable_excuses_by_its_rate_its_evidence_or_its_windows(
    over: bool, reaches: bool, in_windows: bool, worse: bool, excused: bool
) -> None:
    """Any of them is enough, unless the watched arm is clearly worse."""
    made = proportions.latency(GATES["latency"], setup())  # type: ignore[arg-type]
    log_e = made._setup.boundary if reaches else math.nextafter(made._setup.boundary, 0)  # type: ignore[attr-defined]
    made._beside = types.SimpleNamespace(over=over, log_e=log_e)  # type: ignore[attr-defined]
    made._windows = types.SimpleNamespace(mostly_shared=in_windows, failing=True)  # type: ignore[attr-defined]
    made._arms = types.SimpleNamespace(worse=worse)  # type: ignore[attr-defined]
    assert made._excused() is excused  # type: ignore[attr-defined]
    assert (made.fails(), made.both()) == ((None, True) if excused else ("persistence", False))


def test_agreement_is_no_matter_of_stable() -> None:
    """Its other arm is what the answers are compared with; whatever is counted there excuses nothing."""
    made = proportions.agreement(gates.Agreement(metric="agreement", min=0.75), setup())
    for place in range(100):
        made.take(Observation(at=START + place, watched=Tally(n=10, bad=9), beside=Tally(n=10, bad=9)), step=0)
    assert made.fails() == "sequential"
    assert made.read().story == "share of differing answers 90.0 % (900 of 1,000) where 25.0 % is allowed"
    assert made.read().harm == "more than 25.0 %"


# --- scores ------------------------------------------------------------------------------------------------


def scored(blocks: int, *, worse: float = 0.25, rows: int = 16) -> scores.Scores:
    """Blocks that are all worse by the same, where a quarter is allowed."""
    gate = gates.Score(metric="score", score="brier", margin=0.25, window_s=60, window_min=1, min_samples=100)
    made = scores.Scores(gate, setup(), limit=None)
    for place in range(blocks):
        watched, beside = Tally(n=rows, total=rows * (0.5 + worse)), Tally(n=rows, total=rows * 0.5)
        made.take(Observation(at=START + 60.0 * place + 30, watched=watched, beside=beside), step=0)
    return made


def test_a_mean_at_its_margin_is_within() -> None:
    """Exactly as much worse as is allowed, without any spread: it passes, and no window is over."""
    found = scored(confidence.MIN_BLOCKS + 3)
    assert (found.read().passes, found.read().streak, found.fails()) == ("excluded", 0, None)
    assert scored(confidence.MIN_BLOCKS + 3, worse=0.5).read().streak > 0


def test_windows_of_a_mean_count_from_the_tenth_block_on() -> None:
    """Below that its spread is not known well enough."""
    assert scored(confidence.MIN_BLOCKS, worse=0.5).read().streak == 0
    assert scored(confidence.MIN_BLOCKS + 1, worse=0.5).read().streak == 1


def test_two_blocks_are_enough_to_say_how_many_more_it_takes() -> None:
    """Ten blocks are the least, and here they are all that is lacking."""
    assert scored(1).read().needs is None
    two = scored(2).read()
    assert two.needs == pytest.approx(8 * 16, rel=0.03)
    assert two.lacks == ""
    assert scored(1).read().lacks == "fewer than two blocks of 10 rows so far"


def test_the_spread_of_blocks_is_that_of_a_plain_computation() -> None:
    """None before the second block; then the root of the summed squares over one less than their number."""
    blocks = confidence.Blocks()
    assert (blocks.row_sd, blocks.mean) == (0.0, 0.0)
    blocks.add(1.0, 2.0)
    assert (blocks.row_sd, blocks.mean) == (0.0, 1.0)
    blocks.add(3.0, 2.0)
    assert (blocks.row_sd, blocks.mean) == (2.0, 2.0)
    blocks.add(2.0, 4.0)
    assert blocks.row_sd == pytest.approx(math.sqrt(4 / 2))


# --- what all have in common -------------------------------------------------------------------------------


@pytest.mark.parametrize(("windows_over", "in_shared", "mostly"), [(0, 0, False), (1, 1, True), (2, 1, True), (3, 1, False), (3, 2, True)])
def test_a_row_is_shared_if_half_of_its_windows_are(windows_over: int, in_shared: int, mostly: bool) -> None:
    """A row of none is not."""
    made = persistence.Windows(
        window_s=60, window_min=1, persistence=2, since=START, over=lambda *_: True, also=lambda watched, _: watched.bad > 0
    )
    for place in range(windows_over):
        made.take(START + 60.0 * place + 30, Tally(n=1, bad=int(place < in_shared)), None)
    made.take(START + 60.0 * windows_over + 30, Tally(), None)
    assert (made.streak, made.shared, made.mostly_shared) == (windows_over, in_shared, mostly)


def test_the_first_window_is_judged_while_it_is_open_with_both_arms() -> None:
    """Nothing is known without a request."""
    made = persistence.Windows(
        window_s=60, window_min=1, persistence=2, since=START, over=lambda watched, beside: bool(beside and watched.bad > beside.bad)
    )
    assert made.now() is None
    made.take(START + 1, Tally(n=1, bad=1), Tally(n=1))
    assert made.now() is True
    made.take(START + 2, Tally(), Tally(n=1, bad=1))
    assert made.now() is False


def test_a_gate_that_is_alone_has_all_of_alpha() -> None:
    """Those that only observe take nothing from it; those without a test of chance have none."""
    only = {"errors": GATES["errors"], "oom": GATES["oom"]}
    assert gate_run.budget(only, 0.01) == {"errors": 0.01, "oom": 0.0}
    shown = GATES["latency"].model_copy(update={"kind": "observe"})
    assert gate_run.budget({**only, "latency": shown, "split": GATES["split"]}, 0.01) == {
        "errors": 0.005, "oom": 0.0, "latency": 0.005, "split": 0.005,
    }  # fmt: skip


def test_what_is_kept_has_nothing_empty_in_it() -> None:
    """A value of nothing is a value; a count of nothing is not worth its room."""
    seen = Observation(at=5.0, watched=Tally(n=3), beside=Tally(value=0.0), share=0.25)
    assert seen.to_json() == {"at": 5.0, "watched": {"n": 3}, "beside": {"value": 0.0}, "share": 0.25}
    assert Observation(at=5.0, down=True, detail="no").to_json() == {"at": 5.0, "watched": {}, "down": True, "detail": "no"}
    said = base.Verdict(gate="g", metric="m", kind="signal", outcome="pass", cause="within", why="w", at=1.0, needs=2)
    assert base.Verdict(**said.to_json()) == said


@pytest.mark.parametrize(("n", "bad"), [(0, 0), (100, 0), (100, 5), (3000, 3)])
def test_a_reading_of_a_ceiling_has_all_of_it(n: int, bad: int) -> None:
    """Before the first request, while it cannot tell, above the limit, and once harm is excluded."""
    made = proportions.latency(GATES["latency"], setup())  # type: ignore[arg-type]
    made.take(Observation(at=START + 1, watched=Tally(n=n, bad=bad), beside=Tally(n=2 * n)), step=0)
    low, high = confidence.proportion(bad, n)
    over, within = bad > 0.01 * n, n == 3000
    beside = f", 0.0 % (0 of {2 * n:,}) of stable" if n else ""
    assert made.read() == Reading(
        story=f"share slower than 250 ms {share_text(bad, n)} where 1.0 % is allowed{beside}",
        harm="more than 2.0 %",
        lacks="above 1.0 %, but not yet significant" if over else "",
        passes="excluded" if within else None,
        estimate=bad / n if n else None,
        reference=0.01,
        interval=(low - 0.01, high - 0.01) if n else None,
        evidence=made._watched.log_e,  # type: ignore[attr-defined]
        boundary=setup().boundary,
        persistence=3,
        needs=made._needs(bad, n) if n and not within else None,  # type: ignore[attr-defined]
    )
    assert (made.read().needs is None) == (within or over or not n)


@pytest.mark.parametrize(("watched", "beside"), [(0, 0), (0, 1), (1, 0), (1, 1)])
def test_one_request_of_each_arm_is_something_to_compare(watched: int, beside: int) -> None:
    """And nothing of either is nothing."""
    made = error_rate.errors(GATES["errors"], setup())  # type: ignore[arg-type]
    made.take(Observation(at=START + 1, watched=Tally(n=watched), beside=Tally(n=beside)), step=0)
    found = made.read()
    both = bool(watched and beside)
    assert (found.estimate, found.reference) == ((0.0, 0.0) if both else (None, None))
    assert (found.interval is not None, found.needs is not None) == (both, both)
    assert found.lacks == ("no requests of stable to compare with" if watched and not beside else "")


def test_an_error_rate_at_its_margin_is_within() -> None:
    """Exactly as much above stable as is allowed: no window is over."""
    gate = gates.ErrorRate(metric="error_rate", margin=0.25)
    made = error_rate.errors(gate, setup())
    assert made._over(Tally(n=10_000, bad=5_000), Tally(n=10_000, bad=2_500)) is False  # type: ignore[attr-defined]
    assert made._over(Tally(n=10_000, bad=5_001), Tally(n=10_000, bad=2_500)) is True  # type: ignore[attr-defined]
