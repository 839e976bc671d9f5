"""Clocks that jump: what goes on by the time before, what is kept of both, and what no jump may bring about."""

from __future__ import annotations

import dataclasses
import datetime
import itertools
import stat
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from lastgood import errors, release
from lastgood.analysis import policy
from lastgood.core.events import Verified
from lastgood.core.state import State, Verifying
from lastgood.ledger import audit, rows
from lastgood.release import advance
from lastgood.service import strategy
from lastgood.serving import segments
from lastgood.system import clock as system_clock
from lastgood.testing import projects

HOUR_S = 3600.0
DAY_S = 86_400.0
YEAR_S = 365 * DAY_S
JUMPS = [pytest.param(jump, id=f"{jump / HOUR_S:+.0f}h") for jump in (HOUR_S, -HOUR_S, YEAR_S, -YEAR_S)]
START = 1_800_000_000.0


class Machine:
    """A machine whose clock can be set; time passes for all its processes."""

    def __init__(self) -> None:
        self.wall = START
        self.count = 100.0
        self.boot = "first"

    def passes(self, seconds: float) -> None:
        self.wall += seconds
        self.count += seconds

    def starts_anew(self, *, off_s: float, wrong_s: float = 0.0) -> None:
        """It is off for a while, and comes back with a clock that is wrong by *wrong_s* seconds."""
        self.wall += off_s + wrong_s
        self.count, self.boot = 30.0, f"after {self.boot}"

    def process(self) -> system_clock.Clock:
        return system_clock.Clock(reading=lambda: self.wall, counting=lambda: self.count, boot=self.boot)


@pytest.fixture
def machine() -> Machine:
    """A machine at `START`."""
    return Machine()


@pytest.mark.parametrize("jump_s", JUMPS)
def test_a_process_goes_on_by_the_time_that_has_passed(machine: Machine, jump_s: float) -> None:
    """Whatever the clock is set to; how far it is off is told, and when it is put right nothing has happened."""
    clock = machine.process()
    assert clock.now() == START
    machine.wall += jump_s
    machine.passes(10)
    assert clock.now() == pytest.approx(START + 10)
    assert clock.skew_s() == pytest.approx(jump_s)
    machine.wall -= jump_s
    assert (clock.now(), clock.skew_s()) == (pytest.approx(START + 10), 0.0)


def test_small_corrections_are_followed(machine: Machine) -> None:
    """A time server moves a clock by seconds, again and again; the sum may be hours."""
    clock = machine.process()
    clock.now()
    for _ in range(200):
        machine.wall += 59
        assert clock.now() == machine.wall
    assert clock.skew_s() == 0.0


@pytest.mark.parametrize("jump_s", JUMPS)
def test_a_process_that_starts_after_the_jump_goes_on_by_the_same_time(machine: Machine, tmp_path: Path, jump_s: float) -> None:
    """A controller that is killed and started again, a command, a worker: all agree; accepting is for all of them too."""
    first = machine.process()
    first.anchor(tmp_path)
    assert stat.S_IMODE((tmp_path / "run" / system_clock.NOTE).stat().st_mode) == 0o600
    machine.wall += jump_s
    machine.passes(5)
    second = machine.process()
    second.anchor(tmp_path)
    assert second.now() == pytest.approx(first.now()) == pytest.approx(START + 5)
    looking = machine.process()
    looking.look(tmp_path)
    assert looking.skew_s() == pytest.approx(jump_s)
    assert second.accept(tmp_path) == pytest.approx(jump_s)
    machine.passes(system_clock.NOTE_EVERY_S)
    assert first.now() == second.now() == machine.wall
    assert first.skew_s() == 0.0


@pytest.mark.parametrize("note", ["", "{", "[]", '{"boot": "first"}', '{"boot": "first", "base": "x"}', '{"boot": "other", "base": 1.0}'])
def test_a_note_that_says_nothing_of_this_boot_is_written_anew(machine: Machine, tmp_path: Path, note: str) -> None:
    """Damaged, or from before the machine was started: then its clock is all there is."""
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / system_clock.NOTE).write_text(note)
    clock = machine.process()
    clock.anchor(tmp_path)
    assert (clock.now(), clock.skew_s()) == (START, 0.0)
    again = machine.process()
    machine.wall += YEAR_S
    again.anchor(tmp_path)
    assert again.skew_s() == pytest.approx(YEAR_S)


# --- a start of the machine -----------------------------------------------------------------------------------


def test_what_nobody_watched_is_no_least_time(machine: Machine, tmp_path: Path) -> None:
    """Between the last note before a start of the machine and the first look after it; for every process, and over several starts."""
    began = machine.process()
    began.anchor(tmp_path)
    assert began.unwatched_s(0.0) == 0.0
    for _ in range(3):  # a controller looks all the time; what it went by is noted once a minute
        machine.passes(system_clock.NOTE_EVERY_S)
        began.now()
    since = machine.wall - 10
    machine.starts_anew(off_s=100, wrong_s=HOUR_S)
    machine.passes(20)
    for _ in range(2):
        clock = machine.process()
        clock.anchor(tmp_path)
        assert clock.now() == machine.wall, "nobody can tell that it is wrong"
        assert clock.unwatched_s(since) == pytest.approx(HOUR_S + 120)
    assert clock.unwatched_s(0.0) == pytest.approx(HOUR_S + 120)
    machine.passes(500)
    assert clock.unwatched_s(since) == pytest.approx(HOUR_S + 120)
    assert clock.unwatched_s(machine.wall - 400) == 0.0
    clock.accept(tmp_path)
    machine.starts_anew(off_s=50)
    looking = machine.process()
    looking.look(tmp_path)
    again = machine.process()
    again.anchor(tmp_path)
    assert again.unwatched_s(since) == pytest.approx(HOUR_S + 170)


@pytest.mark.parametrize("off_s", [-HOUR_S, -YEAR_S])
def test_a_machine_that_comes_back_earlier_has_left_nothing_out(machine: Machine, tmp_path: Path, off_s: float) -> None:
    """Differences are too small then as it is."""
    machine.process().anchor(tmp_path)
    machine.starts_anew(off_s=0, wrong_s=off_s)
    clock = machine.process()
    clock.anchor(tmp_path)
    assert clock.unwatched_s(0.0) == 0.0


def test_no_phase_and_no_bake_ends_by_a_time_that_nobody_watched(machine: Machine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A phase without gates, and a bake, after a start with a clock that is an hour ahead: they take the time that they were to take."""
    settings = projects.project(tmp_path)

    def process() -> None:
        clock = machine.process()
        clock.anchor(settings.home)
        for name in ("now", "skew_s", "unwatched_s", "anchor", "look"):
            monkeypatch.setattr(system_clock, name, getattr(clock, name))

    machine.wall = time.time()
    process()
    chain = strategy.parse([{"phase": "shadow", "mirror_pct": 10, "min_s": 600, "max_s": 7 * DAY_S}])
    with projects.opened(settings) as ctx:
        (first,) = projects.released(ctx, 1.0)
        machine.passes(100)
        second = projects.build(ctx, 2.0)
        release.propose(
            ctx.with_clock(system_clock.now),
            "toy",
            second,
            release.Request(actor="ann", reason="go"),
            way=release.PhaseOverride(strategy=chain),
        )

        def look() -> str:
            state = ctx.ledger.state("toy")
            mine = ctx.with_clock(system_clock.now)
            advance.advance(mine, "toy", judged_at=state.revision, ready={first, second}, actor="controller")
            return ctx.ledger.state("toy").phase

        assert look() == "shadow"
        machine.passes(100)
        system_clock.now()
        machine.starts_anew(off_s=5, wrong_s=HOUR_S)
        process()
        assert look() == "shadow"
        machine.passes(400)
        assert look() == "shadow"
        machine.passes(200)
        assert look() == "baking"
        machine.starts_anew(off_s=5, wrong_s=HOUR_S)
        process()
        assert look() == "baking"
        machine.passes(2)
        assert look() == "idle"


# --- the ledger: what served when ---------------------------------------------------------------------------


@pytest.mark.parametrize("jump_s", JUMPS)
@pytest.mark.parametrize("where", [1, 2, 3])
def test_one_commit_under_a_wrong_clock_falsifies_nothing_else(tmp_path: Path, jump_s: float, where: int) -> None:
    """Whatever clock one of five commits had, who asks what served before and after it is told the truth; both times are kept."""
    settings = projects.project(tmp_path)
    with projects.opened(settings) as ctx:
        first = projects.released(ctx, 1.0)
        began = ctx.ledger.history("toy", limit=1)[0].at
        numbers = []
        for step in range(5):
            at = began + (step + 1) * 10 * HOUR_S + (jump_s if step == where else 0.0)
            verb: Callable[..., Any] = release.hold if step % 2 == 0 else release.release_hold
            request = release.Request(actor="test", reason=f"step {step}")
            numbers.append(verb(ctx.with_clock(lambda at=at: at), "toy", request).revision.number)
        for step, number in enumerate(numbers):
            found = ctx.ledger.at("toy", began + (step + 1) * 10 * HOUR_S + 9 * HOUR_S)
            if step != where and abs(step - where) > 1:
                assert found is not None
                assert found.number == number, step
        assert ctx.ledger.at("toy", began + 1).state.stable in first
        kept = {revision.number: (revision.at, revision.read_at) for revision in ctx.ledger.history("toy", limit=5)}
        assert [kept[number][1] for number in numbers] == [
            began + (step + 1) * 10 * HOUR_S + (jump_s if step == where else 0.0) for step in range(5)
        ], "what each clock said"
        assert [at for at, _ in kept.values()] == sorted((at for at, _ in kept.values()), reverse=True), "as the database demands"
        assert not audit.verify(ctx.ledger, "toy", settings.keys).problems


def test_times_are_put_right_by_what_most_clocks_say() -> None:
    """Any one reading, ahead or behind, that most contradict: all others stand as they are, and the result ascends."""
    for length, jump in itertools.product(range(3, 9), (-1e6, 1e6)):
        for wrong in range(1 if jump > 0 else 2, length - 1):
            read = [float(10 * step) + (jump if step == wrong else 0.0) for step in range(length)]
            found = rows.believed(read)
            assert found == sorted(found)
            assert [found[step] for step in range(length) if step != wrong] == [10.0 * step for step in range(length) if step != wrong]
            assert 10.0 * (wrong - 1) <= found[wrong] <= 10.0 * (wrong + 1)
    assert rows.believed([]) == []
    assert rows.believed([1.0, 1.0, 2.0]) == [1.0, 1.0, 2.0]


def test_a_commit_under_a_clock_that_was_set_keeps_what_the_machine_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The ledger goes by the time before; the machine's own reading stands beside it."""
    machine = Machine()
    clock = machine.process()
    monkeypatch.setattr(system_clock, "now", clock.now)
    monkeypatch.setattr(system_clock, "skew_s", clock.skew_s)
    settings = projects.project(tmp_path)
    with projects.opened(settings) as ctx:
        projects.released(ctx, 1.0)
        at = max(START, ctx.ledger.history("toy", limit=1)[0].at) + 10
        machine.wall = at
        clock.accept(tmp_path)
        machine.wall += YEAR_S
        release.hold(ctx.with_clock(system_clock.now), "toy", release.Request(actor="test", reason="r"))
        last = ctx.ledger.history("toy", limit=1)[0]
        assert last.at == pytest.approx(at)
        assert last.evidence["clock"]["machine"] == pytest.approx(at + YEAR_S)


# --- rollbacks -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("jump_s", JUMPS)
def test_no_jump_forbids_a_rollback(tmp_path: Path, jump_s: float) -> None:
    """A step back made under a wrong clock keeps nobody from the next one; two who answer one alarm still go back once."""
    settings = projects.project(tmp_path)
    with projects.opened(settings) as ctx:
        for answer in (1.0, 2.0, 3.0):
            projects.released(ctx, answer)
        now = ctx.ledger.history("toy", limit=1)[0].at + 10 * HOUR_S
        release.roll_back(ctx.with_clock(lambda: now + jump_s), "toy", release.Request(actor="test", reason="one"))
        with pytest.raises(errors.NothingToDo, match="was rolled back"):
            release.roll_back(ctx.with_clock(lambda: now + jump_s + 5), "toy", release.Request(actor="test", reason="same alarm"))
        done = release.roll_back(ctx.with_clock(lambda: now + 60), "toy", release.Request(actor="test", reason="two"))
        assert done.revision.verb == "rollback"


@pytest.mark.parametrize("jump_s", [HOUR_S, YEAR_S])
def test_what_is_measured_after_a_step_back_ends_though_it_began_in_the_future(jump_s: float) -> None:
    """Written under a clock that was ahead, found under one that is right: it ends now, as what could not be told, not in a year."""
    verifying = Verifying(since=START + jump_s, until=START + jump_s + 300, left=None, rollout=None)
    state = dataclasses.replace(State(service="toy"), verifying=verifying)
    decision = policy.verify(state, {}, now=START)
    assert decision is not None
    assert decision.event == Verified(outcome="inconclusive", reason="no gate of this service can measure stable alone")
    assert policy.verify(dataclasses.replace(state, verifying=dataclasses.replace(verifying, since=START + 59)), {}, now=START) is None


# --- logs ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("jump_s", JUMPS)
def test_a_clock_that_starts_wrong_deletes_no_log(tmp_path: Path, jump_s: float, monkeypatch: pytest.MonkeyPatch) -> None:
    """All days would be too old at once: that waits for a day of this process; what is too old by the days around it goes at once."""
    for age in range(4):
        (tmp_path / segments.day_name(START - age * DAY_S)).mkdir()
    log = segments.SegmentLog(
        tmp_path, to_table=lambda _rows: None, name="x", keep_days=2, flush_s=1, segment_rows=10, clock=lambda: START + jump_s
    )
    log._expire()
    assert len(list(tmp_path.glob("dt=*"))) == (3 if abs(jump_s) < DAY_S else 4)
    if jump_s == YEAR_S:
        late = log._begun + segments._SURE_S + 1
        monkeypatch.setattr(segments.time, "monotonic", lambda: late)
        log._expire()
        assert list(tmp_path.glob("dt=*")) == [], "a year later than the last row, and sure of it"


def test_the_day_names_of_the_test_are_those_of_the_log() -> None:
    """So that the test above tests what it says."""
    assert segments.day_name(START) == f"dt={datetime.datetime.fromtimestamp(START, datetime.UTC):%Y-%m-%d}"
