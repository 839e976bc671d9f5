"""What the hosts say together, and that nothing is committed without a person on anything else."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from lastgood import errors, release
from lastgood import ledger as ledgers
from lastgood import settings as settings_
from lastgood.controller import loop
from lastgood.core.events import SetHold
from lastgood.hosts import lease, readiness
from lastgood.layers import base
from lastgood.layers import desired as desired_state
from lastgood.ledger import Ledger, Seen
from lastgood.release import advance, convergence
from lastgood.testing import projects
from tests import memory, postgres
from tests.hosts.rows import row, seen, view

NOW = 1_000_000.0


# --- what the rows come to ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("rows", "word"),
    [
        ([], "unknown"),
        ([{"ready": True}], "ready"),
        ([{"ready": False}], "not ready"),
        ([{"ready": True, "host": "one"}, {"ready": False, "host": "two", "failures": 9}], "ready"),
        ([{"ready": True, "age_s": 40}], "unknown"),
        ([{"ready": False, "age_s": 40}], "unknown"),
        ([{"ready": True, "age_s": 40}, {"ready": False, "host": "two"}], "unknown"),
        ([{"ready": False, "age_s": 40}, {"ready": False, "host": "two"}], "not ready"),
        ([{"ready": True, "age_s": 90_000}, {"ready": False, "host": "two"}], "not ready"),
        ([{"ready": True, "age_s": -30}], "ready"),
        ([{"ready": True, "age_s": -3600}], "unknown"),
    ],
)
def test_one_that_says_nothing_is_unknown(rows: list[dict[str, Any]], word: str) -> None:
    """Ready if anybody says so now; not ready only if all say so and none fell silent that had it ready; else unknown."""
    assert view(*(row("a", now=NOW, **one) for one in rows), now=NOW).word("a") == word


def test_a_rollback_goes_to_what_is_warm(tmp_path: Path) -> None:
    """Warm before cold, what cannot be started last, and otherwise the newest; a person's own choice is not changed."""
    made = projects.project(tmp_path)
    with projects.opened(made) as ctx:
        a, b, c, d = projects.released(ctx, 1, 2, 3, 4)
        assert release.plan_roll_back(ctx, ctx.ledger.state("toy"), reason="x").verified == {c: True}
        say(ctx, "one", {c: Seen(ready=False, failures=3, detail="no disk"), d: Seen(ready=True)})
        assert release.plan_roll_back(ctx, ctx.ledger.state("toy"), reason="x").verified == {b: True}
        say(ctx, "two", {a: Seen(ready=True), c: Seen(ready=False, failures=1)})
        assert release.plan_roll_back(ctx, ctx.ledger.state("toy"), reason="x").verified == {a: True}
        assert release.plan_roll_back(ctx, ctx.ledger.state("toy"), reason="x", to=c).verified == {c: True}
        assert release.roll_back(ctx, "toy", release.Request(actor="ann", reason="x")).revision.state.stable == a


def test_another_bundle_is_kept_warm_while_previous_cannot_be(tmp_path: Path) -> None:
    """The next one behind it, and the next if that cannot be started either; nothing more once previous is ready."""
    made = projects.project(tmp_path)
    with projects.opened(made) as ctx:
        a, b, c, _ = projects.released(ctx, 1, 2, 3, 4)

        def warm() -> tuple[str, ...]:
            return desired_state.read(ctx.ledger.state("toy"), ledger=ctx.ledger, store=ctx.store, settings=made).spares

        assert warm() == ()
        say(ctx, "one", {c: Seen(ready=False)})
        assert warm() == (), "it only needs its time"
        say(ctx, "one", {c: Seen(ready=False, failures=1)})
        assert warm() == (b,)
        say(ctx, "one", {c: Seen(ready=False, failures=1), b: Seen(ready=False, failures=1)})
        assert warm() == (b, a)
        say(ctx, "one", {c: Seen(ready=True)})
        assert warm() == ()


def test_going_one_further_back_needs_a_warm_target_and_an_unready_one(tmp_path: Path) -> None:
    """A bundle of which nobody knows is not left, and none is taken that is not warm."""
    made = projects.project(tmp_path)
    with projects.opened(made) as ctx:
        a, b, _ = projects.released(ctx, 1, 2, 3)
        release.roll_back(ctx, "toy", release.Request(actor="ann", reason="bad"))
        later = time.time() + 600

        def go(known: readiness.View) -> release.Committed | None:
            return advance.go_on_back(ctx.with_clock(lambda: later), "toy", view=known, actor="controller")

        assert go(view(now=later)) is None
        assert go(view(row(b, ready=True, now=later, age_s=300), row(a, ready=True, now=later), now=later)) is None
        assert go(view(row(b, ready=False, now=later), row(a, ready=True, now=later), now=later)) is None, "it has only just begun"
        with pytest.raises(errors.NotAllowed, match="no older bundle is warm"):
            go(seen(now=later, unready={a, b}))
        assert ctx.ledger.state("toy").stable == b
        done = go(seen(now=later, ready={a}, unready={b}))
        assert done is not None
        assert done.revision.state.stable == a


def test_what_nobody_knows_is_not_given_up_as_unready(tmp_path: Path) -> None:
    """At the end of its time a candidate of which nobody knows gets the same time again."""
    made = projects.project(tmp_path)
    with projects.opened(made) as ctx:
        b = projects.build(ctx, 2)
        release.propose(ctx, "toy", b, release.Request(actor="ann", reason="go"))
        state = ctx.ledger.state("toy")
        assert state.phase_until is not None
        assert state.phase_since is not None
        over, long = state.phase_until + 1, state.phase_until - state.phase_since
        asked: dict[str, Any] = {"ready": (), "actor": "c"}
        assert advance.advance(ctx.with_clock(lambda: over), "toy", unknown=[b], **asked) is None
        done = advance.advance(ctx.with_clock(lambda: over + long), "toy", unknown=[b], **asked)
        assert done is not None
        assert done.revision.verb == "abandon"


def test_an_idle_host_writes_only_signs_of_life(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In an hour of looks every two seconds: one write in ten seconds; a change at once."""
    made = projects.project(tmp_path)
    writes = []
    real = Ledger.report_readiness
    monkeypatch.setattr(Ledger, "report_readiness", lambda self, *a, **k: (writes.append(k["now"]), real(self, *a, **k))[1])
    with projects.opened(made) as ctx:
        asked: dict[str, Any] = {"settings": made, "wanted": ("a", "b"), "troubles": {}}
        for second in range(0, 3600, 2):
            readiness.report(ctx.ledger, "toy", ready={"a", "b"}, now=NOW + second, **asked)
        assert len(writes) == 360
        readiness.report(ctx.ledger, "toy", ready={"a"}, now=NOW + 3601, **asked)
        assert writes[-1] == NOW + 3601
        assert readiness.read(ctx.ledger, "toy", settings=made, now=NOW + 3602).word("b") == "not ready"


# --- two controllers on one ledger -------------------------------------------------------------------------


@pytest.fixture(scope="module")
def server() -> Iterator[postgres.Server]:
    """A real server for the tests of this module."""
    with postgres.serving() as found:
        yield found


class Pair:
    """Two hosts with homes of their own on one ledger. The first is well."""

    def __init__(self, root: Path, url: str) -> None:
        quick = "poll_s = 0.02\nresync_s = 0.2\nheartbeat_s = 1.0\nlease_s = 1.0\nmeasure_s = 0.1\nwatch_s = 0.3\n"
        self.settings = []
        for name in ("one", "two"):
            made = projects.project(root / name)
            where = url or f"sqlite:///{root / 'one' / 'shared.db'}"
            (root / name / "lastgood.toml").write_text(f'{memory.ADAPTERS}[controller]\n{quick}[ledger]\nurl = "{where}"\n')
            self.settings.append(settings_.load(made.project, environ={}))
        self._stop = threading.Event()
        self._threads: list[threading.Thread] = []

    def world(self, number: int) -> Any:
        return memory.world(self.settings[number], "toy")

    def start(self, *numbers: int) -> None:
        for number in numbers:
            thread = threading.Thread(target=loop.run, args=(self.settings[number],), kwargs={"stop": self._stop})
            self._threads.append(thread)
            thread.start()

    def end(self) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join(20)


@pytest.fixture(params=["sqlite", "postgres"])
def pair(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Pair]:
    """The two on SQLite, and on Postgres. The second has an empty store."""
    url = str(request.getfixturevalue("server").create_schema()) if request.param == "postgres" else ""
    made = Pair(tmp_path, url)
    yield made
    made.end()


def say(ctx: release.Context, host: str, what: dict[str, Seen]) -> None:
    """A host puts into the ledger what it sees now."""
    ctx.ledger.report_readiness("toy", host=host, seen=what, now=time.time())


def until(condition: Callable[[], object], *, what: str, seconds: float = 30.0) -> None:
    """Wait until *condition* holds; fails with *what* if it never does."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, f"never happened: {what}"
        threading.Event().wait(0.02)


def cannot_start(world: Any) -> None:
    """Its workers are there and never ready, for want of a disk."""
    world.infrastructure.endpoints = dict
    world.infrastructure.troubles = lambda: dict.fromkeys(world.infrastructure.workers, (3, "no disk"))


def cannot_look(world: Any) -> None:
    """It cannot even ask its workers."""
    world.infrastructure.failure = base.LayerError("no such machine; wait")


@pytest.mark.parametrize("broken", [cannot_start, cannot_look])
@pytest.mark.parametrize("first", [0, 1], ids=["the healthy host has the lease", "the broken host has the lease"])
def test_a_host_that_cannot_start_workers_moves_nothing(pair: Pair, broken: Callable[[Any], None], first: int) -> None:
    """Whoever has the lease: after a rollback the healthy service stays as it is, a new release goes through, nothing is quarantined."""
    broken(pair.world(1))
    with projects.opened(pair.settings[0]) as ctx:
        a, b, c = projects.released(ctx, 1, 2, 3)
        release.roll_back(ctx.with_clock(lambda: time.time() - 3600), "toy", release.Request(actor="ann", reason="bad"))
        before = ctx.ledger.newest("toy")
        pair.start(first)
        until(lambda: ctx.ledger.lease_holder(lease.lease_name("toy")), what="somebody decides")
        pair.start(1 - first)
        hosts = {readiness.host(one) for one in pair.settings}
        assert len(hosts) == 2
        until(lambda: readiness.read(ctx.ledger, "toy", settings=pair.settings[0], now=time.time()).word(b) == "ready", what="a word")
        if broken is cannot_start:
            until(lambda: {row.host for row in ctx.ledger.readiness("toy") if row.arm == b} == hosts, what="both speak")
        threading.Event().wait(3.0)  # as long as a lease and the signs of life last three times over
        state = ctx.ledger.state("toy", about=(a, b, c))
        assert (state.stable, set(state.marks)) == (b, {c})
        assert changes(ctx, after=before, verbs=("rollback", "quarantine", "abandon", "hold")) == []


def changes(ctx: release.Context, *, after: int, verbs: tuple[str, ...]) -> list[ledgers.Revision]:
    """Revisions after *after* with one of *verbs*."""
    return [one for one in ctx.ledger.history("toy", limit=50) if one.number > after and one.verb in verbs]


def test_every_automatic_commit_proves_the_lease(pair: Pair, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever the controllers commit, by any verb, carries the fence of the lease; what they see themselves plays no part."""
    fenced: list[tuple[str, Any]] = []
    real = Ledger.append
    monkeypatch.setattr(Ledger, "append", lambda self, *a, **k: (fenced.append((k["actor"], k.get("fence"))), real(self, *a, **k))[1])
    cannot_start(pair.world(1))
    pair.start(1, 0)
    with projects.opened(pair.settings[0]) as ctx:
        for answer in (1, 2):
            digest = projects.build(ctx, answer)
            release.propose(ctx, "toy", digest, release.Request(actor="ann", reason="go"))
            until(lambda wanted=digest: ctx.ledger.state("toy").stable == wanted, what="cut-over")
            until(lambda: ctx.ledger.state("toy").phase == "idle", what="end of the bake")
    automatic = [fence for actor, fence in fenced if actor == loop.ACTOR]
    assert len(automatic) >= 4
    assert all(fence is not None and fence.name == lease.lease_name("toy") for fence in automatic)


def test_a_command_that_waits_follows_the_same_rule(pair: Pair) -> None:
    """`promote` on a host that is not the one to decide takes no step itself; with nobody else it takes the lease and leaves it."""
    with projects.opened(pair.settings[0]) as ctx:
        a = projects.build(ctx, 1)
        convergence.promote(ctx, "toy", a, reason="first", actor="ann", wait_s=20)
        assert ctx.ledger.state("toy").stable == a
        assert ctx.ledger.lease_holder(lease.lease_name("toy")) is None
        b = projects.build(ctx, 2)
        held = ctx.ledger.take_lease(lease.lease_name("toy"), holder="elsewhere 1 x 0", now=time.time(), ttl_s=50)
        assert held is not None
        done: list[Any] = []

        def promote() -> None:
            with projects.opened(pair.settings[0]) as mine:
                done.append(convergence.promote(mine, "toy", b, reason="go", actor="bob", wait_s=20, way=release.PhaseOverride(skip=True)))

        thread = threading.Thread(target=promote)
        thread.start()
        until(lambda: readiness.read(ctx.ledger, "toy", settings=pair.settings[0], now=time.time()).word(b) == "ready", what="a word")
        threading.Event().wait(0.5)
        assert ctx.ledger.state("toy").candidate == b
        ctx.ledger.give_up_lease(lease.lease_name("toy"), holder="elsewhere 1 x 0")
        thread.join(30)
        assert done
        assert ctx.ledger.state("toy").stable == b


def test_a_frozen_decider_commits_nothing_afterwards(pair: Pair) -> None:
    """What it decided before it was frozen is refused once somebody else has the lease, whatever verb it is."""
    with projects.opened(pair.settings[0]) as ctx:
        projects.released(ctx, 1, 2)
        c = projects.build(ctx, 3)
        release.propose(ctx, "toy", c, release.Request(actor="ann", reason="go"))
        now = time.time()
        old = ctx.ledger.take_lease(lease.lease_name("toy"), holder="frozen 1 x 0", now=now, ttl_s=1.0)
        assert old is not None
        assert ctx.ledger.take_lease(lease.lease_name("toy"), holder="other 1 x 0", now=now + 10, ttl_s=1.0) is not None
        before = ctx.ledger.newest("toy")
        asked: dict[str, Any] = {"actor": "frozen", "fence": old}
        request = release.Request(**asked, reason="x", automatic=True)
        assert advance.advance(ctx, "toy", ready={c}, **asked) is None
        assert advance.advance(ctx.with_clock(lambda: now + 9999), "toy", ready=(), **asked) is None
        with pytest.raises(errors.Conflict):
            release.roll_back(ctx, "toy", request)
        with pytest.raises(errors.Conflict):
            release.commit(ctx, ctx.ledger.state("toy"), SetHold(reason="x", actor="frozen"), request, verb="hold")
        assert ctx.ledger.newest("toy") == before


def test_a_dead_process_of_the_same_host_keeps_nobody_waiting(pair: Pair) -> None:
    """Its lease is taken over at once by the next one of that host; that of a living one, or of another host, is not."""
    with projects.opened(pair.settings[0]) as ctx:
        host, other = (readiness.host(one) for one in pair.settings)
        name = lease.lease_name("toy")
        for holder, free in (
            (f"{host} 999999999 boot/1 0", True),
            (f"{other} 999999999 boot/1 0", False),
            (lease.holder(pair.settings[0]), False),
        ):
            assert ctx.ledger.take_lease(name, holder=holder, now=time.time(), ttl_s=60) is not None
            mine = lease.holder(pair.settings[0])
            assert (lease.acquire(ctx.ledger, name, holder=mine, now=time.time(), ttl_s=60) is not None) == free, holder
            ctx.ledger.give_up_lease(name, holder=mine if free else holder)
