"""The controller and convergence, on a real ledger and layers in memory."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from lastgood import errors, release
from lastgood import settings as settings_
from lastgood.controller import layer_loop, loop
from lastgood.core.events import Propose
from lastgood.layers import base, receipts
from lastgood.ledger import audit
from lastgood.release import advance, convergence
from lastgood.settings import Settings
from lastgood.testing import projects
from tests import memory
from tests.hosts.rows import seen


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    """A project with layers in memory and a controller that looks often."""
    made = projects.project(tmp_path)
    quick = "[controller]\npoll_s = 0.02\nresync_s = 0.3\nlayer_timeout_s = 0.5\n"
    (tmp_path / "lastgood.toml").write_text(memory.ADAPTERS + quick)
    return settings_.load(made.project, environ={})


@pytest.fixture
def running(settings: Settings) -> Iterator[None]:
    """The controller's loop in a thread."""
    stop = threading.Event()
    thread = threading.Thread(target=loop.run, args=(settings,), kwargs={"stop": stop})
    thread.start()
    yield
    stop.set()
    thread.join(10)
    assert not thread.is_alive()


def until(condition: Callable[[], object], *, what: str, seconds: float = 20.0) -> None:
    """Wait until *condition* holds; fails with *what* if it never does."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, f"never happened: {what}"
        threading.Event().wait(0.01)


def status_of(settings: Settings, layer: str) -> receipts.Receipt | None:
    """What *layer* last told."""
    return receipts.read(settings.run("toy") / "layers").get(layer)


def test_the_controller_takes_a_release_to_the_end_by_itself(settings: Settings, running: None) -> None:
    """Once proposed, a release is cut over and proves itself with nobody at the keyboard, and every layer follows."""
    world = memory.world(settings, "toy")
    with projects.opened(settings) as ctx:
        digest = projects.build(ctx, 1)
        release.propose(ctx, "toy", digest, release.Request(actor="ann", reason="go"))
        until(lambda: ctx.ledger.state("toy").stable == digest, what="cut-over")
        until(lambda: ctx.ledger.state("toy").phase == "idle", what="end of the bake")
        until(lambda: world.registry.aliases == {"stable": digest}, what="the registry followed")
    until(lambda: world.traffic.served == {digest: 100.0}, what="traffic followed")


def test_a_hand_edit_is_put_back_within_one_resync(settings: Settings, running: None) -> None:
    """Somebody moves an alias in the registry; the next look puts it back."""
    world = memory.world(settings, "toy")
    with projects.opened(settings) as ctx:
        a, b = projects.released(ctx, 1, 2)
        until(lambda: world.registry.aliases == {"stable": b, "previous": a}, what="the registry followed")
        world.registry.aliases = {"stable": a}
        until(lambda: world.registry.aliases == {"stable": b, "previous": a}, what="the edit was put back")


def test_a_dead_layer_delays_no_other_one(settings: Settings, running: None) -> None:
    """With the registry down, traffic moves at once; the registry catches up when it is back; its receipt says why."""
    world = memory.world(settings, "toy")
    with projects.opened(settings) as ctx:
        a, b = projects.released(ctx, 1, 2)
        until(lambda: world.traffic.served == {b: 100.0}, what="traffic followed")
        world.registry.failure = base.LayerError("registry is down; wait")
        done = convergence.carry_out(ctx, "toy", release.roll_back, release.Request(actor="ann", reason="bad"), wait_s=0.0)
        assert world.traffic.served == {a: 100.0}
        assert done.traffic_ms is not None
        assert not done.converged
        until(lambda: (found := status_of(settings, "registry")) and found.status == "failed", what="the failure was told")
        world.registry.failure = None
        until(lambda: world.registry.aliases == {"stable": a}, what="the registry caught up")


def test_a_layer_that_hangs_is_reported_and_waited_for_by_nobody(settings: Settings, running: None) -> None:
    """An adapter that does not come back is told as such; traffic goes on."""
    world = memory.world(settings, "toy")
    release_it = threading.Event()
    with projects.opened(settings) as ctx:
        a, b = projects.released(ctx, 1, 2)
        until(lambda: world.traffic.served == {b: 100.0}, what="traffic followed")
        world.registry.observe = lambda: (release_it.wait(30), base.Observed(revision=None))[1]  # type: ignore[method-assign]
        try:
            until(lambda: (found := status_of(settings, "registry")) and "no answer" in found.detail, what="the hang was told")
            convergence.carry_out(ctx, "toy", release.roll_back, release.Request(actor="ann", reason="bad"), wait_s=0.0)
            assert world.traffic.served == {a: 100.0}
        finally:
            release_it.set()
            del world.registry.observe


def test_a_candidate_that_never_gets_ready_is_abandoned(settings: Settings, running: None) -> None:
    """Stable is untouched, and the promoter is told; asking for the same bundle later is allowed."""
    world = memory.world(settings, "toy")
    with projects.opened(settings) as ctx:
        (a,) = projects.released(ctx, 1)
        b = projects.build(ctx, 2)
        world.infrastructure.never_ready = {b}
        state = ctx.ledger.state("toy", about=(b,))

        release.commit(ctx, state, Propose(bundle=b, verified=True, ready_s=0.2), release.Request(actor="ann", reason="go"), verb="promote")
        with pytest.raises(errors.PromotionFailed, match="stable was not touched"):
            convergence.promote(ctx, "toy", b, reason="go", actor="ann")
        assert ctx.ledger.state("toy").stable == a
        assert ctx.ledger.state("toy").candidate is None


def test_a_promotion_that_is_overtaken_by_a_rollback_is_a_conflict(settings: Settings) -> None:
    """The promoter learns who rolled back, with exit code 3."""
    world = memory.world(settings, "toy")
    with projects.opened(settings) as ctx:
        projects.released(ctx, 1, 2)
        c = projects.build(ctx, 3)
        world.infrastructure.never_ready = {c}
        caught: list[BaseException] = []

        def promote() -> None:
            with projects.opened(settings) as mine:
                try:
                    convergence.promote(mine, "toy", c, reason="go", actor="bob")
                except errors.LastgoodError as error:
                    caught.append(error)

        thread = threading.Thread(target=promote)
        thread.start()
        until(lambda: ctx.ledger.state("toy").candidate == c, what="the candidate is there")
        release.roll_back(ctx, "toy", release.Request(actor="ann", reason="bad"))
        thread.join(20)
        assert [type(error) for error in caught] == [errors.Conflict]
        assert "by ann, rollback" in str(caught[0])


def test_a_target_that_does_not_get_ready_is_passed_over(settings: Settings) -> None:
    """When the bundle gone back to cannot start, automation goes one further, quarantines it, and pages."""
    clock = time.time
    with projects.opened(settings) as ctx:
        a, b, _ = projects.released(ctx, 1, 2, 3)
        release.roll_back(ctx, "toy", release.Request(actor="ann", reason="bad"))
        assert (
            advance.go_on_back(ctx.with_clock(clock), "toy", view=seen(now=clock(), ready={a}, unready={b}), actor="controller") is None
        ), "not before its time"
        later = clock() + 60
        further = advance.go_on_back(ctx.with_clock(lambda: later), "toy", view=seen(now=later, ready={a}, unready={b}), actor="controller")
        assert further is not None
        assert further.revision.state.stable == a
        assert further.revision.state.marks[b].kind == "quarantined"
        assert further.pages
        last = clock() + 900
        assert advance.go_on_back(ctx.with_clock(lambda: last), "toy", view=seen(now=last, ready={a}), actor="controller") is None


def test_without_a_controller_the_command_moves_traffic_itself(settings: Settings) -> None:
    """Traffic and workers follow; what is left for the controller is said, and so is how to start it."""
    world = memory.world(settings, "toy")
    with projects.opened(settings) as ctx:
        a, b = projects.released(ctx, 1, 2)
        convergence.carry_out(ctx, "toy", release.hold, release.Request(actor="t", reason="x"), wait_s=0.0)
        assert world.traffic.served == {b: 100.0}
        done = convergence.carry_out(ctx, "toy", release.roll_back, release.Request(actor="ann", reason="bad"))
        assert world.traffic.served == {a: 100.0}
        told = {receipt.layer: receipt for receipt in done.receipts}
        assert told["infrastructure"].status == "converged"
        assert told["registry"].status == "lagging"
        assert "lastgood up" in told["registry"].detail
        audit.checkpoint(ctx.ledger, "toy", settings.keys)
        last = list(audit.export(ctx.ledger, "toy"))[-1]
        assert last["subject"] == "receipt"


def test_two_controllers_are_harmless(settings: Settings, running: None) -> None:
    """Both drive the same release; each step is taken once."""
    stop = threading.Event()
    second = threading.Thread(target=loop.run, args=(settings,), kwargs={"stop": stop})
    second.start()
    try:
        with projects.opened(settings) as ctx:
            for answer in (1, 2, 3):
                digest = projects.build(ctx, answer)
                release.propose(ctx, "toy", digest, release.Request(actor="ann", reason="go"))
                until(lambda wanted=digest: ctx.ledger.state("toy").stable == wanted, what="cut-over")
                until(lambda: ctx.ledger.state("toy").phase == "idle", what="end of the bake")
            verbs = [r.verb for r in reversed(ctx.ledger.history("toy"))]
        assert verbs == ["promote", "cut-over", "bake-ended"] * 3
    finally:
        stop.set()
        second.join(10)


def test_backoff_grows_and_is_bounded() -> None:
    """Full jitter over a doubling range, never longer than allowed."""
    assert all(0 <= layer_loop.backoff(failures, 30.0) <= 30.0 for failures in range(1, 50))
    assert max(layer_loop.backoff(1, 30.0) for _ in range(100)) <= 0.2
