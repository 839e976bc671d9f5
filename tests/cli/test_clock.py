"""What `doctor` says of clocks: that of this machine, and those of whoever wrote into the ledger."""

from __future__ import annotations

import time

import pytest

from lastgood import release
from lastgood.settings import Settings
from lastgood.system import clock as system_clock
from lastgood.testing import projects
from tests.cli.conftest import Run
from tests.system.test_clock import HOUR_S, Machine


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> Machine:
    """A machine at the true time, whose clock every command goes by."""
    made = Machine()
    made.wall = time.time()
    clock = made.process()
    for name in ("now", "skew_s", "look", "anchor", "accept"):
        monkeypatch.setattr(system_clock, name, getattr(clock, name))
    return made


def findings(run: Run) -> dict[str, tuple[bool | None, str, str]]:
    """What `doctor` finds about clocks, by name: (ok, detail, remedy)."""
    found = {one["name"]: (one["ok"], one["detail"], one["remedy"]) for one in run("doctor", "--json").json["findings"]}
    return {name: value for name, value in found.items() if name == "clock" or name.startswith("times of")}


def test_a_clock_that_goes_on_is_well(run: Run, settings: Settings, machine: Machine) -> None:
    """Also when it was moved by seconds, and with a revision from another host that is a little ahead."""
    with projects.opened(settings) as ctx:
        projects.released(ctx, 1)
        release.hold(ctx.with_clock(lambda: machine.wall + 50), "toy", release.Request(actor="ann", reason="x"))
    assert {name: ok for name, (ok, *_) in findings(run).items()} == {"clock": True}
    machine.wall += 30
    assert findings(run)["clock"][0] is True


@pytest.mark.parametrize("jump_s", [HOUR_S, -HOUR_S])
def test_a_clock_that_was_set_is_found_until_it_is_right_or_accepted(run: Run, settings: Settings, machine: Machine, jump_s: float) -> None:
    """By how much and in which direction, with both ways out; then it is well again."""
    with projects.opened(settings) as ctx:
        projects.released(ctx, 1)
    assert findings(run)["clock"][0] is True
    machine.wall += jump_s
    ok, detail, remedy = findings(run)["clock"]
    assert ok is False
    assert f"set by {jump_s:+.0f} s" in detail
    assert "correct the clock" in remedy
    assert "lastgood up" in remedy
    assert run("doctor").code == 1
    system_clock.accept(settings.home)
    assert findings(run)["clock"][0] is True


def test_a_revision_from_the_future_is_found(run: Run, settings: Settings, machine: Machine) -> None:
    """Which service and revision, by how much, and whose clock may be wrong; it is not said of a service whose times are right."""
    with projects.opened(settings) as ctx:
        projects.released(ctx, 1)
        done = release.hold(ctx.with_clock(lambda: machine.wall + 2 * HOUR_S), "toy", release.Request(actor="ann", reason="x"))
    found = findings(run)
    ok, detail, remedy = found["times of toy"]
    assert found["clock"][0] is True
    assert ok is False
    assert f"revision {done.revision.number} is 7200 s in the future" in detail
    assert "correct this clock" in remedy
    machine.passes(3 * HOUR_S)
    assert "times of toy" not in findings(run)
