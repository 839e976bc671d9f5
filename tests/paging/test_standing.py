"""Pages about a trouble that lasts: told once by whoever sees it, also after a restart, with what and where and the remedy; told again if it comes again."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from lastgood import release
from lastgood.bundle.manifest import short
from lastgood.controller import loop
from lastgood.hosts import lease, readiness
from lastgood.layers.receipts import Receipt, write
from lastgood.ledger import Page, Seen
from lastgood.paging import delivery, message, once
from lastgood.settings import Settings
from lastgood.system import clock
from lastgood.testing import projects

DEAD = "elsewhere/00000000"
READY, FAILING = Seen(ready=True), Seen(ready=False, failures=2, detail="no disk")


class Stage:
    """A service whose workers are what a test says of them, and controllers that look when they are told to."""

    def __init__(self, settings: Settings, ctx: release.Context) -> None:
        self.settings, self.ctx = settings, ctx
        self.passed = 0.0
        self.skew = 0.0
        self.host = readiness.host(settings)
        self._said: dict[str, dict[str, Seen]] = {}
        self._loop: loop.ServiceLoop | None = None

    def now(self) -> float:
        return time.time() + self.passed

    def say(self, host: str, **seen: Seen) -> None:
        """What *host* says from now on of the bundles that are given by digest."""
        self._said[host] = seen

    def fall_silent(self, host: str) -> None:
        del self._said[host]

    def restart(self) -> None:
        """The controller ends, without giving anything up, and is started again."""
        self.end()
        self._loop = loop.ServiceLoop(self.ctx, "toy", moved=lambda: None)

    def end(self) -> None:
        if self._loop is not None:
            self._loop.end()
        self._loop = None

    def look(self, *, after_s: float = 0.0) -> None:
        """All hosts give their signs of life, and the controller looks, *after_s* seconds later."""
        self.passed += after_s
        for host, seen in self._said.items():
            self.ctx.ledger.report_readiness("toy", host=host, seen=seen, now=self.now())
        if self._loop is None:
            self.restart()
        assert self._loop is not None
        self._loop._looked_at = float("-inf")
        self._loop.tick()

    def told(self, key: str) -> list[Page]:
        """Pages whose key begins with *key*, as they were left."""
        found = [page for page in self.ctx.ledger.pages("toy", limit=1000) if page.key.startswith(key)]
        return sorted(found, key=lambda page: (page.at, page.resolves))

    def serves(self, digest: str) -> None:
        """The proxy of this host says that *digest* answers everything."""
        traffic = Receipt(
            layer="traffic", status="converged", desired_revision=1, observed_revision=1, ms=1.0, at=self.now(), facts={"weights": {digest: 100.0}}
        )  # fmt: skip
        write(self.settings.run("toy") / "layers", traffic)


@pytest.fixture
def stage(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Stage]:
    """The stage, on a clock that the test moves on."""
    settings = projects.project(tmp_path)
    monkeypatch.setattr(once, "AGAIN_S", 0.0)
    with projects.opened(settings) as ctx:
        made = Stage(settings, ctx)
        monkeypatch.setattr(clock, "now", made.now)
        monkeypatch.setattr(clock, "skew_s", lambda: made.skew)
        yield made
        made.end()


def keys(pages: list[Page]) -> list[str]:
    """Their keys."""
    return [page.key for page in pages]


def restarted(stage: Stage) -> None:
    """Several looks of the same controller and of the next one."""
    stage.look(after_s=3)
    stage.restart()
    stage.look(after_s=3)
    stage.look(after_s=3)


# --- previous cannot be kept warm ----------------------------------------------------------------------------


def test_previous_that_cannot_be_kept_warm_is_told_once_until_it_can(stage: Stage) -> None:
    """Not in its first minute; with the bundle, the host, the cause and where a rollback goes instead; over after a minute of being warm."""
    a, b, c = projects.released(stage.ctx, 1, 2, 3)
    stage.say(stage.host, **{c: READY, b: READY, a: READY})
    stage.look()
    stage.look(after_s=600)
    assert stage.told("cold-") == []
    stage.say(stage.host, **{c: READY, b: FAILING, a: READY})
    stage.look(after_s=5)
    stage.look(after_s=loop.COLD_S - 6)
    assert stage.told("cold-") == []
    stage.look(after_s=7)
    restarted(stage)
    release.hold(stage.ctx, "toy", release.Request(actor="ann", reason="another revision"))
    restarted(stage)
    (page,) = stage.told("cold-")
    assert (page.key, page.severity) == (f"cold-{short(b)}", "warning")
    for part in (short(b), stage.host, "no disk", f"goes to {short(a)}", "lastgood status toy"):
        assert part in page.summary
    stage.say(stage.host, **{c: READY, b: READY, a: READY})
    stage.look(after_s=5)
    stage.look(after_s=loop.COLD_S - 6)
    assert len(stage.told("cold-")) == 1, "a worker that comes and goes is one trouble"
    stage.look(after_s=7)
    restarted(stage)
    assert [(one.key, one.resolves) for one in stage.told("cold-")] == [(f"cold-{short(b)}", False), (f"cold-{short(b)}-over", True)]


def test_a_trouble_that_comes_again_is_told_again(stage: Stage) -> None:
    """About the same revision too: the second time has a name of its own, and each end closes its own."""
    a, b = projects.released(stage.ctx, 1, 2)
    stage.say(stage.host, **{b: READY, a: READY})
    stage.look()
    for _ in range(3):
        for word in (FAILING, READY):
            stage.say(stage.host, **{b: READY, a: word})
            stage.look(after_s=5)
            stage.look(after_s=loop.COLD_S + 1)
            restarted(stage)
    name = f"cold-{short(a)}"
    assert keys(stage.told(name)) == [name, f"{name}-over", f"{name}-2", f"{name}-2-over", f"{name}-3", f"{name}-3-over"]
    assert [message.dedup_key(one).removeprefix("lastgood/toy/") for one in stage.told(name)] == [
        name, name, f"{name}-2", f"{name}-2", f"{name}-3", f"{name}-3"
    ]  # fmt: skip
    assert len({one.revision for one in stage.told(name)}) == 1


def test_it_is_over_when_another_bundle_is_previous(stage: Stage) -> None:
    """Nobody has to wait for a bundle that nobody wants any more."""
    a, b = projects.released(stage.ctx, 1, 2)
    stage.say(stage.host, **{b: READY, a: FAILING})
    stage.look()
    stage.look(after_s=loop.COLD_S + 1)
    (c,) = projects.released(stage.ctx, 3)
    stage.say(stage.host, **{c: READY, b: READY})
    stage.look(after_s=5)
    assert keys(stage.told("cold-")) == [f"cold-{short(a)}", f"cold-{short(a)}-over"]


# --- traffic that could not follow a step back -----------------------------------------------------------------


def test_a_step_back_that_traffic_could_not_follow_is_told_once(stage: Stage) -> None:
    """With its target, the cause, what answers meanwhile and the remedy; over once the target is ready."""
    _, b, c = projects.released(stage.ctx, 1, 2, 3)
    stage.say(stage.host, **{c: READY, b: READY})
    stage.serves(c)
    stage.look()
    release.roll_back(stage.ctx, "toy", release.Request(actor="ann", reason="bad"))
    stage.say(stage.host, **{c: READY, b: FAILING})
    stage.look()
    assert stage.told("not-followed") == [], "it has only just begun"
    stage.look(after_s=loop.NOT_FOLLOWED_S + 1)
    restarted(stage)
    (page,) = stage.told("not-followed")
    assert page.severity == "critical"
    for part in (short(b), "no disk", f"answered by: {short(c)} 100 % (quarantined)", "lastgood rollback toy BUNDLE"):
        assert part in page.summary
    stage.say(stage.host, **{b: READY})
    restarted(stage)
    name = f"not-followed-{short(b)}"
    assert keys(stage.told("not-followed")) == [name, f"{name}-over"]


def test_a_worker_that_ends_after_traffic_followed_is_not_that(stage: Stage) -> None:
    """As after a restart of the machine: the step back is days old, and its target answered all the time."""
    _, b, _ = projects.released(stage.ctx, 1, 2, 3)
    release.roll_back(stage.ctx, "toy", release.Request(actor="ann", reason="bad"))
    stage.say(stage.host, **{b: READY})
    stage.serves(b)
    stage.look()
    stage.say(stage.host, **{b: FAILING})
    stage.restart()
    stage.look(after_s=3600)
    restarted(stage)
    assert stage.told("not-followed") == []


def test_that_there_is_no_way_further_back_is_told_once(stage: Stage) -> None:
    """With the bundle that cannot be started, the cause, and what to type; over once it can be."""
    a, _ = projects.released(stage.ctx, 1, 2)
    release.roll_back(stage.ctx.with_clock(lambda: time.time() - 3600), "toy", release.Request(actor="ann", reason="bad"))
    stage.say(stage.host, **{a: Seen(ready=False)})
    stage.look()
    stage.look(after_s=1)
    assert stage.told("stranded") == [], "its workers still have time"
    real = loop.advance.go_on_back
    stage.say(stage.host, **{a: FAILING})

    def later(ctx: release.Context, *given: Any, **asked: Any) -> Any:
        return real(ctx.with_clock(lambda: stage.now() + 60), *given, **asked)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(loop.advance, "go_on_back", later)
        stage.look(after_s=1)
        restarted(stage)
    (page,) = stage.told("stranded")
    assert page.severity == "critical"
    for part in (short(a), "no disk", "lastgood rollback toy BUNDLE", "this host does not know which bundle answers requests"):
        assert part in page.summary
    assert message.commands(page)[0] == "lastgood bundle list toy"
    stage.say(stage.host, **{a: READY})
    restarted(stage)
    assert keys(stage.told("stranded")) == [f"stranded-{short(a)}", f"stranded-{short(a)}-over"]


# --- nobody decides ----------------------------------------------------------------------------------------------


def test_that_nobody_decides_is_told_once_for_as_long_as_it_lasts(stage: Stage) -> None:
    """With the bundle, the host that fell silent, and what to do there; again when it falls silent again."""
    (a,) = projects.released(stage.ctx, 1)
    stage.say(DEAD, **{a: READY})
    stage.look()
    stage.look(after_s=3600)
    assert stage.told("nobody") == [], "its host speaks"
    stage.fall_silent(DEAD)
    stage.look(after_s=5)
    assert stage.told("nobody") == [], "a moment of silence is none"
    stage.look(after_s=60)
    restarted(stage)
    (page,) = stage.told("nobody")
    assert (page.key, page.severity) == ("nobody-decides", "warning")
    for part in (short(a), DEAD, "lastgood up"):
        assert part in page.summary
    stage.say(DEAD, **{a: READY})
    restarted(stage)
    stage.fall_silent(DEAD)
    stage.look(after_s=60)
    restarted(stage)
    assert keys(stage.told("nobody")) == ["nobody-decides", "nobody-decides-over", "nobody-decides-2"]


def test_nobody_is_not_said_while_somebody_has_the_lease(stage: Stage) -> None:
    """A host that cannot ask its workers says nothing of them, and decides all the same."""
    (a,) = projects.released(stage.ctx, 1)
    stage.say(DEAD, **{a: READY})
    stage.look()
    stage.fall_silent(DEAD)
    for _ in range(3):
        stage.passed += 60
        name = lease.lease_name("toy")
        assert stage.ctx.ledger.take_lease(name, holder=f"{DEAD} 1 x 0", now=stage.now(), ttl_s=15) is not None
        stage.look()
    assert stage.told("nobody") == []
    stage.look(after_s=60)
    assert keys(stage.told("nobody")) == ["nobody-decides"]


# --- clocks ------------------------------------------------------------------------------------------------------


def test_a_clock_that_was_set_is_told_once_and_when_it_is_right(stage: Stage) -> None:
    """With the host, by how much, and what to do; not again after a restart or another revision."""
    projects.released(stage.ctx, 1)
    stage.look()
    assert stage.told("clock") == []
    stage.skew = -3600.0
    restarted(stage)
    release.hold(stage.ctx, "toy", release.Request(actor="ann", reason="another revision"))
    restarted(stage)
    (page,) = stage.told("clock")
    assert page.severity == "critical"
    for part in (readiness.host(stage.settings).split("/")[0], "set back by 3600 s", "lastgood up"):
        assert part in page.summary
    assert page.body["skew_s"] == -3600.0
    stage.skew = 0.0
    restarted(stage)
    stage.skew = 7200.0
    restarted(stage)
    name = f"clock-{stage.host}"
    assert keys(stage.told("clock")) == [name, f"{name}-over", f"{name}-2"]


def test_each_host_tells_of_its_own_clock(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    """About one revision too: the page of one host is not in the way of another's."""
    projects.released(stage.ctx, 1)
    stage.skew = 3600.0
    stage.look()
    monkeypatch.setattr(readiness, "_host", lambda _home: DEAD)
    stage.restart()
    stage.look()
    assert sorted(keys(stage.told("clock"))) == sorted((f"clock-{stage.host}", f"clock-{DEAD}"))


@pytest.mark.parametrize("ahead_s", [3600.0, -3600.0])
def test_two_hosts_whose_clocks_disagree_are_told_once_for_both(stage: Stage, monkeypatch: pytest.MonkeyPatch, ahead_s: float) -> None:
    """Both, by how much, and what to do; not for seconds, nor for one that is silent; over when they agree again."""
    (a,) = projects.released(stage.ctx, 1)

    def speak(host: str, by_s: float) -> None:
        stage.ctx.ledger.report_readiness("toy", host=host, seen={a: READY}, now=stage.now() + by_s)

    for _ in range(4):
        speak(DEAD, 30.0)
        stage.look(after_s=5)
    assert stage.told("clocks") == []
    for _ in range(2):
        stage.look(after_s=3000)
    assert stage.told("clocks") == [], "one that is silent has no clock"
    for _ in range(3):
        stage.passed += 5
        speak(DEAD, ahead_s)
        stage.look()
    stage.restart()
    for _ in range(3):
        stage.passed += 5
        speak(DEAD, ahead_s)
        stage.look()
    own = stage.host
    with monkeypatch.context() as patch:  # the other host's controller, which sees it the other way round
        patch.setattr(readiness, "_host", lambda _home: DEAD)
        stage.restart()
        for _ in range(3):
            stage.passed += 5
            speak(own, -ahead_s)
            stage.look()
    (page,) = stage.told("clocks")
    assert page.severity == "critical"
    first, last = (DEAD, own) if ahead_s > 0 else (own, DEAD)
    assert f"the clock of {first} is " in page.summary
    assert f"ahead of that of {last}" in page.summary
    assert "lastgood up" in page.summary
    stage.restart()
    for _ in range(3):
        stage.passed += 5
        speak(DEAD, 0.0)
        stage.look()
    assert keys(stage.told("clocks")) == [page.key, f"{page.key}-over"]


# --- delivery ----------------------------------------------------------------------------------------------------


def test_the_end_of_a_trouble_does_not_overtake_its_beginning(stage: Stage) -> None:
    """Both may be about one revision: a pager that got them the other way round would stay open for good."""
    projects.released(stage.ctx, 1)
    lasting = once.OpenProblem(stage.ctx, "toy")
    lasting.begun("trouble", "toy: bad", severity="critical", now=200.0)
    lasting.over("trouble", now=100.0)
    ledger = stage.ctx.ledger

    def due() -> list[str]:
        return [page.key for page in ledger.due_pages("pager", now=1e9) if page.key.startswith("trouble")]

    assert due() == ["trouble"]
    (page,) = (one for one in ledger.due_pages("pager", now=1e9) if one.key == "trouble")
    ledger.page_tried(page, "pager", now=300.0, delivered=False, error="down", next_at=301.0)
    assert due() == ["trouble"]
    ledger.page_tried(page, "pager", now=400.0, delivered=True)
    assert due() == ["trouble-over"]
    (end,) = (one for one in ledger.due_pages("pager", now=1e9) if one.key == "trouble-over")
    assert delivery.text(end).splitlines()[0] == "[resolved] toy: over: bad"


def test_two_processes_tell_one_trouble_once(stage: Stage) -> None:
    """Whoever sees it first; the other one ends it."""
    projects.released(stage.ctx, 1)
    one, two = (once.OpenProblem(stage.ctx, "toy") for _ in range(2))
    for each in (one, two, one):
        each.begun("trouble", "toy: bad", severity="warning", now=200.0)
    two.over("trouble", now=300.0)
    one.over("trouble", now=301.0)
    assert sorted(keys(stage.told("trouble"))) == ["trouble", "trouble-over"]
