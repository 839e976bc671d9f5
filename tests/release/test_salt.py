"""The secret that decides which users a candidate gets: drawn with each proposal, found by every host, shown to nobody."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import pytest

from lastgood import ledger, release
from lastgood.layers import base
from lastgood.layers import desired as desired_state
from lastgood.service import strategy
from lastgood.testing import projects
from tests.cli.conftest import Run

__all__ = ["run", "settings"]

from lastgood.core.events import Abandon, Advance, CutOver, Event, ReleaseHold, SetHold
from lastgood.core.state import State
from lastgood.settings import Settings
from tests.cli.conftest import run, settings

WAY = release.PhaseOverride(strategy=strategy.from_text("canary:5,canary:50"))


def propose(ctx: release.Context, answer: float, *, service: str = "toy") -> ledger.Revision:
    """Propose a new bundle that passes two canaries."""
    done = release.propose(ctx, service, projects.build(ctx, answer, service=service), release.Request(actor="ann", reason="go"), way=WAY)
    assert done is not None
    return done.revision


def act(ctx: release.Context, event: Event, *, service: str = "toy") -> base.Desired:
    """What is desired once *event* is in the ledger."""
    done = release.commit(ctx, ctx.ledger.state(service), event, release.Request(actor="ann", reason="test"), verb="test")
    return wanted(ctx, done.revision.state)


def wanted(ctx: release.Context, state: State) -> base.Desired:
    """What is desired in *state*, as any host reads it."""
    return desired_state.read(state, ledger=ctx.ledger, store=ctx.store, settings=ctx.settings)


@pytest.fixture
def ctx(settings: Settings) -> Iterator[release.Context]:
    """A project with a stable bundle."""
    with projects.opened(settings) as opened:
        projects.released(opened, 1)
        yield opened


def test_a_release_has_one_salt_from_its_first_share_to_its_last(ctx: release.Context) -> None:
    """The same at 5 and 50 %; without a share of its own a candidate has none, nor has a service afterwards."""
    revision = propose(ctx, 2)
    candidate = revision.state.candidate
    assert candidate is not None
    assert (len(bytes.fromhex(revision.salt)), wanted(ctx, revision.state).salt) == (16, "")
    ramp = [act(ctx, Advance(bundle=candidate)) for _ in range(2)]
    assert [(found.weights[candidate], found.salt) for found in ramp] == [(5.0, revision.salt), (50.0, revision.salt)]
    assert act(ctx, SetHold(reason="look", actor="ann")).salt == revision.salt
    assert act(ctx, ReleaseHold()).salt == revision.salt
    assert act(ctx, CutOver(bundle=candidate, bake_s=1.0)).salt == ""


def test_the_next_release_and_another_service_have_others(ctx: release.Context) -> None:
    """Each proposal draws its own, of the same bundle too."""
    folder = ctx.settings.services
    (folder / "other").mkdir()
    for file in (folder / "toy").iterdir():
        (folder / "other" / file.name).write_text(file.read_text().replace("service: toy", "service: other"))
    first = propose(ctx, 2)
    assert first.state.candidate is not None
    act(ctx, Abandon(bundle=first.state.candidate, reason="not now"))
    again, other = propose(ctx, 2), propose(ctx, 3, service="other")
    assert len({first.salt, again.salt, other.salt}) == 3


def test_every_host_of_a_ledger_finds_the_same(ctx: release.Context) -> None:
    """It is in the ledger and in no home: a second home, with keys of its own, desires the same split."""
    candidate = propose(ctx, 2).state.candidate
    assert candidate is not None
    here = act(ctx, Advance(bundle=candidate))
    with contextlib.closing(ledger.connect(ctx.settings.ledger_url)) as elsewhere:
        there = desired_state.read(elsewhere.state("toy"), ledger=elsewhere, store=ctx.store, settings=ctx.settings)
    assert (there.salt, there.weights) == (here.salt, here.weights)
    assert here.salt


def test_a_release_that_was_proposed_before_there_were_salts_has_none(ctx: release.Context) -> None:
    """An older release of lastgood wrote no salt: its users stay where they are until that release is over."""
    digest = projects.build(ctx, 2)
    event = release.plan_propose(ctx, ctx.ledger.state("toy"), digest, way=WAY)
    assert act(ctx, event).salt == ""
    found = act(ctx, Advance(bundle=digest))
    assert (found.weights[digest], found.salt) == (5.0, "")


def test_nothing_prints_a_salt(ctx: release.Context, run: Run) -> None:
    """No command shows it, nor what is desired when that is printed; only the ledger has it."""
    revision = propose(ctx, 2)
    assert revision.state.candidate is not None
    found = act(ctx, Advance(bundle=revision.state.candidate))
    assert found.salt not in repr(found)
    for args in (
        ["status", "toy"],
        ["status", "toy", "--json"],
        ["history", "toy", "--json"],
        ["history", "toy", "--limit", "1"],
        ["show", revision.state.candidate, "--json"],
        ["audit", "export", "toy"],
        ["plan", "rollback", "toy", "--json"],
    ):
        done = run(*args)
        assert revision.salt not in done.out + done.err, args
        assert done.out, args
