"""Two hosts on one ledger: only one that serves speaks of what comes in and of what is on its disk, and it stands with it whose word that is."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from lastgood import errors, release
from lastgood.bundle.manifest import short
from lastgood.drift import decision as drift_decision
from lastgood.drift import watch as drift_watch
from lastgood.hosts import readiness, vantage
from lastgood.ledger import Seen
from lastgood.model_retirement import check as liveness
from lastgood.model_retirement import providers as models
from lastgood.model_retirement import records
from lastgood.settings import Settings
from lastgood.testing import projects
from tests.drift import project as toy
from tests.drift.project import HOUR_S, START

OTHER = "elsewhere/00000000"
DAY_S = 86_400.0
LOCAL = {"provider": "local", "model": "small.gguf", "sha256": "0" * 64}
HOSTED = {"provider": "openai", "model": "new-2025-01-01"}


def say(ctx: release.Context, host: str, arm: str, *, now: float, ready: bool = True) -> None:
    """*host* speaks of its worker of *arm*."""
    ctx.ledger.report_readiness(toy.SERVICE, host=host, seen={arm: Seen(ready=ready)}, now=now)


# --- what comes in ---------------------------------------------------------------------------------------------


@pytest.fixture
def watched(tmp_path: Path) -> Iterator[tuple[release.Context, str]]:
    """A service that is watched, and its bundle, stable from START on."""
    with release.open_context(toy.make(tmp_path)) as ctx:
        digest = toy.build(ctx, 0.0)
        toy.promote(ctx, digest, at=START)
        yield ctx, digest


def tick(ctx: release.Context, hours: float) -> list[drift_watch.WindowReport]:
    """A tick so many hours after START, and some seconds."""
    what = drift_watch.watch_of_service(ctx, toy.SERVICE)
    assert what is not None
    return drift_watch.evaluate_next_window(ctx, what, now=START + hours * HOUR_S + 10)


def alarms(ctx: release.Context) -> list[str]:
    """What was paged about what comes in."""
    return [page.summary for page in ctx.ledger.pages(toy.SERVICE) if page.key.startswith("drift")]


@pytest.mark.parametrize("silent", [False, True], ids=["the other speaks", "the other has fallen silent"])
def test_a_host_that_serves_nothing_says_of_nobody_that_nothing_came_in(watched: tuple[release.Context, str], silent: bool) -> None:
    """It has no log: its tick writes down no window, pages nobody, decides nothing, and says where to ask."""
    ctx, digest = watched
    say(ctx, OTHER, digest, now=START + 10 if silent else START + 3 * HOUR_S)
    say(ctx, readiness.host(ctx.settings), digest, now=START + 3 * HOUR_S, ready=False)
    what = drift_watch.watch_of_service(ctx, toy.SERVICE)
    assert what is not None
    with pytest.raises(errors.Conflict, match=rf"served by {OTHER}, .* run the command on that host"):
        tick(ctx, 3)
    assert list(drift_watch.window_reports(ctx, what)) == []
    assert alarms(ctx) == []


def test_the_decision_is_left_to_a_host_that_serves(watched: tuple[release.Context, str], monkeypatch: pytest.MonkeyPatch) -> None:
    """Also to one that has fallen silent: nothing is compared or written down here."""
    ctx, digest = watched
    assert [one.change for one in tick(ctx, 2)] == ["opened", ""]
    what = drift_watch.watch_of_service(ctx, toy.SERVICE)
    assert what is not None
    look = drift_decision.due(ctx, what, now=START + 2 * HOUR_S + 10)
    assert look is not None
    decision = drift_decision.decide(ctx, what, look)
    assert decision.host == readiness.host(ctx.settings)
    say(ctx, OTHER, digest, now=START + HOUR_S)
    monkeypatch.setattr("lastgood.system.clock.now", lambda: START + 2 * HOUR_S + 10)
    with pytest.raises(errors.Conflict, match=OTHER):
        drift_decision.decide(ctx, what, look)
    with pytest.raises(errors.Conflict, match=OTHER):
        drift_decision.carry_out(ctx, what, decision, now=START + 2 * HOUR_S + 10, actor="test")
    assert toy.evidence(ctx, digest, drift_decision.KIND) == []


def test_of_several_that_serve_one_without_a_row_waits_for_the_others(watched: tuple[release.Context, str]) -> None:
    """For as long as a window lasts; then it says so, and whose word it is. One that has rows says what it has seen at once."""
    ctx, digest = watched
    me = readiness.host(ctx.settings)
    toy.Traffic(ctx.settings, digest).hour(0)

    def serve(hours: float) -> list[drift_watch.WindowReport]:
        for host in (me, OTHER):
            say(ctx, host, digest, now=START + hours * HOUR_S)
        return tick(ctx, hours)

    (seen,) = serve(1.2)
    assert (seen.number, seen.seen, seen.host) == (0, 120, me)
    assert f"as seen by host {me}; {OTHER} also serves" in seen.verdict["why"]
    assert serve(2.5) == []
    (empty,) = serve(3.2)
    assert (empty.number, empty.seen, empty.verdict["outcome"]) == (1, 0, "broken")
    assert me in alarms(ctx)[0]
    what = drift_watch.watch_of_service(ctx, toy.SERVICE)
    assert what is not None
    assert [one.host for one in drift_watch.window_reports(ctx, what)] == [me, me]


def test_one_host_alone_speaks_for_itself(watched: tuple[release.Context, str]) -> None:
    """With or without workers in the ledger; it needs not to be named."""
    ctx, digest = watched
    now = START + HOUR_S
    assert vantage.check_vantage(ctx, toy.SERVICE, digest, now=now).told() == ""
    say(ctx, readiness.host(ctx.settings), digest, now=now)
    assert vantage.check_vantage(ctx, toy.SERVICE, digest, now=now) == vantage.HostView(host=readiness.host(ctx.settings))
    say(ctx, OTHER, digest, now=now - 2 * DAY_S)
    assert vantage.check_vantage(ctx, toy.SERVICE, digest, now=now).others == (), "a host that is gone for a day"


# --- models on a host's own disk -----------------------------------------------------------------------------------


class Pair:
    """Two hosts; what stands on the disk of the one that looks is what a test says."""

    def __init__(self, settings: Settings, ctx: release.Context, patch: pytest.MonkeyPatch) -> None:
        self.ctx, self.patch = ctx, patch
        self.one = readiness.host(settings)
        self.now = START + 2 * DAY_S

    def serves(self, arm: str, *hosts: str) -> None:
        """These hosts have a worker of *arm*, and say so until the next day."""
        for host in (self.one, OTHER):
            say(self.ctx, host, arm, now=self.now, ready=host in hosts)

    def look(self, host: str, *, there: bool, after_s: float = 60.0) -> liveness.Report:
        """*host* looks whether the model is there."""
        self.now += after_s
        found = models.Liveness(status="alive" if there else "gone", why="its file is on this machine" if there else "no local model")
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(models, "_local", lambda _pin: found)
            patch.setattr(readiness, "_host", lambda _home: host)
            return liveness.check(self.ctx, "toy", ask=None, now=self.now, actor="test")

    def told(self) -> list[str]:
        return [page.summary for page in self.ctx.ledger.pages("toy") if page.key.startswith("liveness")]


@pytest.fixture
def pair(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Pair]:
    """Both on one ledger."""
    settings = projects.project(tmp_path)
    with projects.opened(settings) as ctx:
        yield Pair(settings, ctx, monkeypatch)


def statuses(report: liveness.Report) -> dict[str, str]:
    """What was found out, by bundle."""
    return {one.bundle: one.lifetime.status for one in report.checked}


def test_a_model_that_a_host_without_workers_lacks_is_not_gone(pair: Pair) -> None:
    """It never needed it: nothing is written down, nobody is paged, a rollback goes there, and hosted models are asked about all the same."""
    a, b = projects.released(pair.ctx, 1, 2, llms={1: [LOCAL], 2: [HOSTED]})
    pair.serves(b, OTHER)
    assert statuses(pair.look(pair.one, there=False)) == {b: "unknown", a: "unknown"}
    assert [one for one in pair.ctx.ledger.evaluations(a) if one.kind == records.KIND] == []
    assert len([one for one in pair.ctx.ledger.evaluations(b) if one.kind == records.KIND]) == 1
    assert pair.told() == []
    assert pair.look(OTHER, there=True).checked[1].lifetime.host == OTHER
    assert statuses(pair.look(pair.one, there=False))[a] == "alive", "what the ledger says, not what it sees itself"
    assert release.roll_back(pair.ctx, "toy", release.Request(actor="t", reason="x")).revision.state.stable == a


def test_a_model_is_gone_once_every_host_that_serves_says_so(pair: Pair) -> None:
    """As long as one has it the bundle answers; each host's word stands in the ledger, once a week."""
    (a,) = projects.released(pair.ctx, 1, llms={1: [LOCAL]})
    pair.serves(a, pair.one, OTHER)
    assert statuses(pair.look(OTHER, there=True)) == {a: "alive"}
    for _ in range(3):
        assert statuses(pair.look(pair.one, there=False)) == {a: "alive"}
        assert statuses(pair.look(OTHER, there=True)) == {a: "alive"}
    assert len([one for one in pair.ctx.ledger.evaluations(a) if one.kind == records.KIND]) == 2
    assert pair.told() == []
    assert records.gone(pair.ctx.ledger, a, now=pair.now) is None
    assert statuses(pair.look(OTHER, there=False)) == {a: "gone"}
    assert records.gone(pair.ctx.ledger, a, now=pair.now) is not None
    (summary,) = pair.told()
    assert short(a) in summary


def test_a_host_that_is_heard_of_no_more_keeps_no_model_alive(pair: Pair) -> None:
    """What it said weeks ago says nothing of today."""
    (a,) = projects.released(pair.ctx, 1, llms={1: [LOCAL]})
    pair.serves(a, pair.one, OTHER)
    pair.look(OTHER, there=True)
    pair.look(pair.one, there=False)
    pair.now += 15 * DAY_S
    pair.serves(a, pair.one)
    assert statuses(pair.look(pair.one, there=False)) == {a: "gone"}
