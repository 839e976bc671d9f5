"""What an alarm comes to: roll back, retrain, keep or ask; each once, with its numbers, and never by drift alone."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from lastgood import errors, release
from lastgood.bundle.manifest import short
from lastgood.drift import bundle_comparison as drift_compare
from lastgood.drift import decision as drift_decision
from lastgood.drift import fitness, verdict
from lastgood.drift import watch as drift_watch
from lastgood.settings import Settings
from lastgood.system import failpoints
from tests.drift import project as toy
from tests.drift.project import HOUR_S, START

SHIFTED = toy.World(mean=1.2)
TURNED = toy.World(mean=1.2, bias=-2.0)
"""What comes in is other, and what x says is other too: a model that was made before has it wrong."""


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    """The small service."""
    return toy.make(tmp_path)


@pytest.fixture
def ctx(settings: Settings) -> Iterator[release.Context]:
    """Its ledger and store."""
    with release.open_context(settings) as ctx:
        yield ctx


def released(ctx: release.Context, *biases: float, **options: float) -> list[str]:
    """One bundle for each bias, the last one stable from START on; *options* are for the last one."""
    found = []
    for place, bias in enumerate(biases):
        last = place == len(biases) - 1
        found.append(toy.build(ctx, bias, **(options if last else {})))  # type: ignore[arg-type]
        toy.promote(ctx, found[-1], at=START - 1000 * (len(biases) - 1 - place))
    return found


def serve(ctx: release.Context, bundle: str, *worlds: toy.World, bias: float, labels: bool = True) -> drift_watch.DriftWatch:
    """An hour of each world, looked at by the watch."""
    traffic = toy.Traffic(ctx.settings, bundle, bias=bias)
    for hour, world in enumerate(worlds):
        traffic.hour(hour, world, labels=labels)
    what = drift_watch.watch_of_service(ctx, toy.SERVICE)
    assert what is not None
    drift_watch.evaluate_next_window(ctx, what, now=START + len(worlds) * HOUR_S + 10)
    return what


def decided(ctx: release.Context, what: drift_watch.DriftWatch, *, hours: float) -> drift_decision.DriftDecision:
    """The decision that is due so many hours after START."""
    look = drift_decision.due(ctx, what, now=START + hours * HOUR_S + 10)
    assert look is not None
    return drift_decision.decide(ctx, what, look)


def pages(ctx: release.Context) -> list[str]:
    """The summaries of the pages about decisions."""
    return [page.summary for page in ctx.ledger.pages(toy.SERVICE) if page.key.startswith("drift-decision")]


def test_without_an_alarm_nothing_is_due(ctx: release.Context) -> None:
    """However long it serves."""
    _, stable = released(ctx, 0.1, 0.0)
    what = serve(ctx, stable, toy.USUAL, toy.USUAL, toy.USUAL, bias=0.0)
    assert drift_decision.due(ctx, what, now=START + 900 * HOUR_S) is None


def test_looks_come_at_set_times_and_each_once(ctx: release.Context) -> None:
    """Two and six hours of rows after the alarm began; one that was missed is passed over."""
    _, stable = released(ctx, 0.1, 0.0)
    what = serve(ctx, stable, toy.USUAL, *[SHIFTED] * 7, bias=0.0)
    begun = START + HOUR_S
    assert drift_decision.due(ctx, what, now=begun + 1.9 * HOUR_S) is None
    first = drift_decision.due(ctx, what, now=begun + 2.1 * HOUR_S)
    assert first == drift_decision.ScheduledLook(alarm=begun, number=1, of=2, until=begun + 2 * HOUR_S)
    drift_decision.carry_out(ctx, what, drift_decision.decide(ctx, what, first), now=begun + 2.1 * HOUR_S, actor="test")
    assert drift_decision.due(ctx, what, now=begun + 5.9 * HOUR_S) is None
    second = drift_decision.due(ctx, what, now=begun + 6.1 * HOUR_S)
    assert second is not None
    assert second.number == 2
    drift_decision.carry_out(ctx, what, drift_decision.decide(ctx, what, second), now=begun + 6.1 * HOUR_S, actor="test")
    third = drift_decision.due(ctx, what, now=begun + 10.1 * HOUR_S)
    assert third == drift_decision.ScheduledLook(alarm=begun, number=3, of=3, until=begun + 10 * HOUR_S), (
        "as long after the last as that came after the first"
    )


def test_a_worse_bundle_is_rolled_back_on_labelled_rows(ctx: release.Context) -> None:
    """The world has turned back to what the one behind was made for: on the same rows it is better beyond its margin."""
    before, stable = released(ctx, -2.0, 0.0)
    what = serve(ctx, stable, toy.USUAL, *[TURNED] * 6, bias=0.0)
    decision = decided(ctx, what, hours=7)
    assert (decision.outcome, decision.target) == ("roll_back", before)
    assert decision.compared is not None
    assert decision.compared.low is not None
    assert decision.compared.low > 0.002
    assert decision.compared.rows == 720
    assert f"brier of {short(stable)} is 0." in decision.why
    outcome = drift_decision.carry_out(ctx, what, decision, now=START + 7 * HOUR_S, actor="test")
    assert outcome is not None
    assert outcome.revision.state.stable == before
    assert outcome.revision.state.marks[stable].kind == "quarantined"
    assert outcome.revision.reason.startswith("drift: brier of ")
    assert toy.evidence(ctx, stable, drift_decision.KIND)[0]["outcome"] == "roll_back"
    assert pages(ctx) == [], "the rollback pages by itself"


def test_drift_alone_is_no_reason(ctx: release.Context) -> None:
    """What comes in has shifted, and the serving bundle knows it as well as ever: it is kept."""
    _, stable = released(ctx, -2.0, 0.0)
    what = serve(ctx, stable, toy.USUAL, *[SHIFTED] * 6, bias=0.0)
    decision = decided(ctx, what, hours=7)
    assert decision.outcome == "keep"
    assert "as good as on its reference" in decision.why
    assert drift_decision.carry_out(ctx, what, decision, now=START + 7 * HOUR_S, actor="test") is None
    assert ctx.ledger.state(toy.SERVICE).stable == stable
    assert "can stay" in pages(ctx)[0]


def test_two_that_are_equally_lost_are_trained_anew(ctx: release.Context) -> None:
    """Going back would not help, and the serving one is worse than it was made: a new one is worth building."""
    _, stable = released(ctx, 0.05, 0.0)
    what = serve(ctx, stable, toy.USUAL, *[TURNED] * 6, bias=0.0)
    decision = decided(ctx, what, hours=7)
    assert decision.outcome == "retrain"
    assert "a rollback would not help by more than 0.002" in decision.why


def test_without_labels_nothing_moves(ctx: release.Context) -> None:
    """A person is asked, with what is missing."""
    _, stable = released(ctx, -2.0, 0.0)
    what = serve(ctx, stable, toy.USUAL, *[TURNED] * 6, bias=0.0, labels=False)
    decision = decided(ctx, what, hours=7)
    assert (decision.outcome, decision.compared) == ("ask", None)
    assert decision.why.startswith("0 labelled rows; a comparison needs 50")


def test_a_broken_pipeline_is_rolled_back_without_labels(ctx: release.Context) -> None:
    """The code that serves makes a thousand times of x what its model was trained on; that of the one behind does not."""
    before, stable = released(ctx, 0.0, 0.1, unit=1000.0)
    what = serve(ctx, stable, toy.USUAL, *[SHIFTED] * 6, bias=0.1, labels=False)
    decision = decided(ctx, what, hours=7)
    assert decision.outcome == "roll_back"
    assert "feature x: 9" in decision.why or "feature x: 100 %" in decision.why
    assert decision.why.endswith(f"the code of {short(before)} computes the usual ones")
    assert drift_decision.carry_out(ctx, what, decision, now=START + 7 * HOUR_S, actor="test") is not None


def test_another_season_is_no_broken_code(ctx: release.Context) -> None:
    """The rows look like those that the bundle behind was made for, and both codes make the same of them: without labels nothing moves."""
    behind = toy.build(ctx, 0.0, world=SHIFTED)
    toy.promote(ctx, behind, at=START - 1000)
    stable = toy.build(ctx, 0.1)
    toy.promote(ctx, stable, at=START)
    what = serve(ctx, stable, *[SHIFTED] * 6, bias=0.1, labels=False)
    decision = decided(ctx, what, hours=7)
    assert decision.target == behind
    assert decision.features[short(stable)]["columns"][0]["distance"] > 0.5
    assert decision.features[short(behind)]["columns"][0]["distance"] < 0.2
    assert decision.outcome == "ask"


def test_with_nothing_behind_a_new_one_is_built(ctx: release.Context) -> None:
    """The first bundle has no other to go back to."""
    (stable,) = released(ctx, 0.0)
    what = serve(ctx, stable, toy.USUAL, *[TURNED] * 3, bias=0.0)
    decision = decided(ctx, what, hours=4)
    assert (decision.outcome, decision.target) == ("retrain", None)


def test_while_a_release_is_on_its_way_nothing_is_due(ctx: release.Context) -> None:
    """Its gates decide."""
    _, stable = released(ctx, -2.0, 0.0)
    what = serve(ctx, stable, toy.USUAL, *[TURNED] * 3, bias=0.0)
    release.propose(
        ctx.with_clock(lambda: START + 4 * HOUR_S), toy.SERVICE, toy.build(ctx, 0.7), release.Request(actor="test", reason="test")
    )
    assert drift_decision.due(ctx, what, now=START + 4 * HOUR_S) is None


def test_a_service_that_has_moved_on_is_not_rolled_back(ctx: release.Context) -> None:
    """Between the decision and its doing somebody released another bundle; that one is not blamed."""
    _, stable = released(ctx, -2.0, 0.0)
    what = serve(ctx, stable, toy.USUAL, *[TURNED] * 6, bias=0.0)
    decision = decided(ctx, what, hours=7)
    other = toy.build(ctx, 0.9)
    toy.promote(ctx, other, at=START + 7 * HOUR_S)
    assert drift_decision.carry_out(ctx, what, decision, now=START + 7.1 * HOUR_S, actor="test") is None
    assert ctx.ledger.state(toy.SERVICE).stable == other


def test_a_decision_whose_plan_is_outdated_is_refused_as_by_the_command(ctx: release.Context) -> None:
    """Stable is the same, but a release has begun since it was compared: that one's gates decide, and a person is told why nothing moved."""
    _, stable = released(ctx, -2.0, 0.0)
    what = serve(ctx, stable, toy.USUAL, *[TURNED] * 6, bias=0.0)
    decision = decided(ctx, what, hours=7)
    planned = ctx.ledger.state(toy.SERVICE)
    candidate = toy.build(ctx, 0.9)
    release.propose(ctx.with_clock(lambda: START + 7 * HOUR_S), toy.SERVICE, candidate, release.Request(actor="ann", reason="better"))
    with pytest.raises(errors.Conflict) as said:
        release.check_planned(ctx, ctx.ledger.state(toy.SERVICE), planned)
    assert drift_decision.carry_out(ctx, what, decision, now=START + 7.1 * HOUR_S, actor="test") is None
    assert (ctx.ledger.state(toy.SERVICE).stable, ctx.ledger.state(toy.SERVICE).candidate) == (stable, candidate)
    assert pages(ctx)[0].endswith(f"; the decision could not be carried out: {said.value}")
    assert "planned" not in toy.evidence(ctx, stable, drift_decision.KIND)[0]


def test_a_rollback_that_a_rule_forbids_is_told(ctx: release.Context, monkeypatch: pytest.MonkeyPatch) -> None:
    """Too many steps back, or nothing that verifies any more: a person has to know what was decided."""
    _, stable = released(ctx, -2.0, 0.0)
    what = serve(ctx, stable, toy.USUAL, *[TURNED] * 6, bias=0.0)
    decision = decided(ctx, what, hours=7)

    def refuse(*_: object, **__: object) -> None:
        raise errors.NotAllowed("it is forbidden; ask a person")

    monkeypatch.setattr(release, "roll_back", refuse)
    assert drift_decision.carry_out(ctx, what, decision, now=START + 7 * HOUR_S, actor="test") is None
    assert "should be rolled back" in pages(ctx)[0]
    assert pages(ctx)[0].endswith("; the decision could not be carried out: it is forbidden; ask a person")


def test_a_look_whose_process_died_is_still_due(ctx: release.Context) -> None:
    """Before the rollback was committed: nothing says that it was decided, so the next one does it."""
    before, stable = released(ctx, -2.0, 0.0)
    what = serve(ctx, stable, toy.USUAL, *[TURNED] * 6, bias=0.0)
    decision = decided(ctx, what, hours=7)
    with failpoints.armed("drift.before_rollback=raise:EIO"), pytest.raises(OSError, match="failpoint"):
        drift_decision.carry_out(ctx, what, decision, now=START + 7 * HOUR_S, actor="test")
    again = decided(ctx, what, hours=7)
    outcome = drift_decision.carry_out(ctx, what, again, now=START + 7 * HOUR_S, actor="test")
    assert outcome is not None
    assert outcome.revision.state.stable == before


def test_a_rollback_whose_process_died_after_it_has_its_evidence_and_is_not_done_twice(ctx: release.Context) -> None:
    """The revision itself says why; nothing more is due."""
    before, stable = released(ctx, -2.0, 0.0)
    what = serve(ctx, stable, toy.USUAL, *[TURNED] * 6, bias=0.0)
    decision = decided(ctx, what, hours=7)
    with failpoints.armed("drift.after_rollback=raise:EIO"), pytest.raises(OSError, match="failpoint"):
        drift_decision.carry_out(ctx, what, decision, now=START + 7 * HOUR_S, actor="test")
    revision = ctx.ledger.revision(toy.SERVICE, ctx.ledger.newest(toy.SERVICE))
    assert (revision.state.stable, revision.verb) == (before, "rollback")
    assert revision.evidence["drift"]["why"] == decision.why
    now_watched = drift_watch.watch_of_service(ctx, toy.SERVICE)
    assert now_watched is not None
    assert drift_decision.due(ctx, now_watched, now=START + 9 * HOUR_S) is None


def test_another_bundle_is_held_beside_on_rows_whose_labels_have_come(tmp_path: Path) -> None:
    """Of younger rows only the quick labels are known: they are left out."""
    with release.open_context(toy.make(tmp_path / "slow", delay_s=3600.0)) as ctx:
        behind, stable = released(ctx, -2.0, 0.0)
        what = serve(ctx, stable, *[TURNED] * 4, bias=0.0)
        found = drift_compare.compare_with_stable(ctx, what, behind, since=START, now=START + 4 * HOUR_S)
    assert found.until == START + 3 * HOUR_S
    assert found.compared is not None
    assert found.compared.rows == 3 * 120


def test_whoever_was_faster_is_not_blamed(ctx: release.Context, monkeypatch: pytest.MonkeyPatch) -> None:
    """A change between the look at the service and the rollback: nothing moves, and a person is told."""
    _, stable = released(ctx, -2.0, 0.0)
    what = serve(ctx, stable, toy.USUAL, *[TURNED] * 6, bias=0.0)
    decision = decided(ctx, what, hours=7)
    real = release.roll_back

    def overtaken(*args: object, **options: object) -> object:
        toy.promote(ctx, toy.build(ctx, 0.9), at=START + 7 * HOUR_S)
        return real(*args, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(release, "roll_back", overtaken)
    assert drift_decision.carry_out(ctx, what, decision, now=START + 7.1 * HOUR_S, actor="test") is None
    assert ctx.ledger.state(toy.SERVICE).stable != stable
    assert "the decision could not be carried out: " in pages(ctx)[0]


def test_a_slow_decline_comes_to_retrain(ctx: release.Context) -> None:
    """What x says of y turns, x does not: the loss opens the alarm, and the bundle behind would not help."""
    _, stable = released(ctx, 0.05, 0.0)
    what = serve(ctx, stable, *[toy.World(bias=-4.0 * hour / 40) for hour in range(40)], bias=0.0)
    while drift_watch.evaluate_next_window(ctx, what, now=START + 40 * HOUR_S + 10):
        pass
    assert drift_watch.open_alarm(list(drift_watch.window_reports(ctx, what))) is not None
    decision = decided(ctx, what, hours=40)
    assert decision.outcome == "retrain"


def test_what_was_kept_is_usual_from_there_on(ctx: release.Context) -> None:
    """The alarm ends, and neither that state nor the one before it opens another; a third one does."""
    _, stable = released(ctx, -2.0, 0.0)
    worlds = [*[SHIFTED] * 6, *[toy.USUAL] * 4, *[SHIFTED] * 4, *[toy.World(mean=-1.2)] * 3]
    traffic = toy.Traffic(ctx.settings, stable)
    for hour, world in enumerate(worlds):
        traffic.hour(hour, world)
    what = drift_watch.watch_of_service(ctx, toy.SERVICE)
    assert what is not None
    drift_watch.evaluate_next_window(ctx, what, now=START + 6 * HOUR_S + 10)
    decision = decided(ctx, what, hours=6)
    assert (decision.outcome, decision.kept is not None) == ("keep", True)
    drift_decision.carry_out(ctx, what, decision, now=START + 6 * HOUR_S, actor="test")
    found = drift_watch.evaluate_next_window(ctx, what, now=START + len(worlds) * HOUR_S + 10)
    assert [one.change for one in found] == ["", "closed", *[""] * 7, "opened", ""]
    (page,) = [one for one in ctx.ledger.pages(toy.SERVICE) if one.key.startswith("drift-decision")]
    assert page.body["decision"]["kept"] is None, "a page is for people"


def test_a_target_that_is_as_lost_is_not_gone_back_to(ctx: release.Context) -> None:
    """It is better by more than the margin, and still useless: a rollback would hide that a new one is needed."""
    before, stable = released(ctx, -0.6, 0.0)
    what = serve(ctx, stable, toy.USUAL, *[toy.World(mean=1.2, bias=-6.0)] * 6, bias=0.0)
    decision = decided(ctx, what, hours=7)
    assert decision.compared is not None
    assert decision.compared.low is not None
    assert decision.compared.low > 0.002
    assert (decision.outcome, decision.target) == ("retrain", before)
    assert f"both are useless: on its own reference {short(before)} had 0." in decision.why


def features(**distances: float) -> verdict.WindowVerdict:
    """What a bundle's code makes of the rows, so far from what it was trained on."""
    columns = tuple(verdict.Column(name=name, outcome="fail", why="", distance=value) for name, value in distances.items())
    return verdict.WindowVerdict(outcome="fail", why="", rows=10, columns=columns)


@pytest.mark.parametrize(
    ("mine", "others", "useless"),
    [
        (features(x=9.0, y=0.1), features(x=0.2, y=0.1), False),
        (features(x=9.0, y=0.1), features(x=0.2, y=12.0), True),
        (features(x=9.0), features(x=2.0), False),
        (features(x=0.6), features(y=0.4), False),
        (None, features(x=2.0), False),
    ],
)
def test_right_code_is_no_help_where_the_world_has_left_it_as_far_behind(
    mine: verdict.WindowVerdict | None, others: verdict.WindowVerdict, useless: bool
) -> None:
    """Some feature of it is as far from its training as the worst of the broken code is."""
    assert (fitness.by_features(mine, others) is not None) is useless
