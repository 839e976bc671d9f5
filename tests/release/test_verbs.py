"""The verbs on a real ledger and store, without layers."""

from __future__ import annotations

import json
import shutil
import threading
import time
from pathlib import Path

import pytest

from lastgood import errors, release
from lastgood.bundle import manifest
from lastgood.ledger import audit
from lastgood.release import advance
from lastgood.service import strategy
from lastgood.settings import Settings
from lastgood.testing import projects
from tests.hosts.rows import seen


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    """A project with one service and no layers."""
    return projects.project(tmp_path)


def damage(ctx: release.Context, digest: str, part: str = "model") -> None:
    """Flip a byte of a stored part."""
    path = ctx.store.path(ctx.ledger.bundle(digest).parts[part].digest)
    path.chmod(0o600)
    data = bytearray(path.read_bytes())
    data[0] ^= 1
    path.write_bytes(data)


def test_promote_and_roll_back_leave_a_chain_that_verifies(settings: Settings) -> None:
    """Two releases and a rollback: stable is the first again, the second is quarantined, the audit trail is whole."""
    with projects.opened(settings) as ctx:
        a, b = projects.released(ctx, 1, 2)
        done = release.roll_back(ctx, "toy", release.Request(actor="ann", reason="bad"))
        state = done.revision.state
        assert (state.stable, state.marks[b].kind) == (a, "quarantined")
        audit.checkpoint(ctx.ledger, "toy", settings.keys)
        assert audit.verify(ctx.ledger, "toy", settings.keys).problems == ()


def test_rollback_passes_over_a_damaged_target(settings: Settings) -> None:
    """The newest bundle whose bytes still verify is taken, however many are damaged before it."""
    with projects.opened(settings) as ctx:
        a, b, _ = projects.released(ctx, 1, 2, 3)
        damage(ctx, b)
        assert release.roll_back(ctx, "toy", release.Request(actor="ann", reason="bad")).revision.state.stable == a


def test_promoting_a_damaged_bundle_is_refused_and_noted(settings: Settings) -> None:
    """A flipped bit is found before traffic; the refusal stands in the audit trail."""
    with projects.opened(settings) as ctx:
        digest = projects.build(ctx, 1)
        damage(ctx, digest)
        with pytest.raises(errors.NotAllowed, match="does not verify"):
            release.propose(ctx, "toy", digest, release.Request(actor="ann", reason="go"))
        last = list(audit.export(ctx.ledger, "toy"))[-1]
        assert last["subject"] == "refusal"
        assert "does not verify" in str(last["body"])


def test_registering_needs_every_part_and_the_right_service(settings: Settings) -> None:
    """A bundle without a required part, or with another service's configuration, never reaches the ledger."""
    with projects.opened(settings) as ctx:
        whole = ctx.ledger.bundle(projects.build(ctx, 1))
        fewer = manifest.bundle_of("toy", whole.parts["model"], whole.parts["config"])
        with pytest.raises(errors.NotAllowed, match="lacks environment"):
            release.register(ctx, fewer, provenance={}, actor="t", now=1.0)
        other = manifest.bundle_of("other", *whole.parts.values())
        with pytest.raises(errors.NotAllowed, match="does not describe 'other'"):
            release.register(ctx, other, provenance={}, actor="t", now=1.0)
        assert ctx.ledger.bundles("other") == []


def test_offline_limits_are_asked_of_the_ledger(tmp_path: Path) -> None:
    """With a floor in service.yaml, an unevaluated or too weak bundle is refused and a good one passes."""
    settings = projects.project(tmp_path, extra="evaluation: {floors: {auc: 0.6}}\n")
    with projects.opened(settings) as ctx:
        digest = projects.build(ctx, 1)
        for report, refused in ((None, True), ({"metrics": {"auc": 0.55}}, True), ({"metrics": {"auc": 0.7}}, False)):
            if report is not None:
                ctx.ledger.evaluate(digest, kind="offline", report=report, actor="t", now=float(report["metrics"]["auc"]))
            if refused:
                with pytest.raises(errors.NotAllowed, match="does not meet its offline limits"):
                    release.propose(ctx, "toy", digest, release.Request(actor="ann", reason="go"))
            else:
                assert release.propose(ctx, "toy", digest, release.Request(actor="ann", reason="go")) is not None


def test_a_stale_plan_is_a_conflict_that_tells_what_changed(settings: Settings) -> None:
    """Who decided on an older revision learns who changed what, and nothing happens."""
    with projects.opened(settings) as ctx:
        projects.released(ctx, 1, 2)
        seen = ctx.ledger.newest("toy")
        release.hold(ctx, "toy", release.Request(actor="ann", reason="freeze"))
        with pytest.raises(errors.Conflict, match=r"by ann: hold"):
            release.roll_back(ctx, "toy", release.Request(actor="bob", reason="bad", expected=seen))
        assert ctx.ledger.newest("toy") == seen + 1


def test_many_operators_roll_back_at_once_and_one_revision_results(settings: Settings) -> None:
    """Eight people answer the same alert: one rollback is written, the others are told that it is done."""
    with projects.opened(settings) as ctx:
        _, b, _ = projects.released(ctx, 1, 2, 3)
        before = ctx.ledger.newest("toy")
    results: list[str] = []
    start = threading.Barrier(8)

    def answer(number: int) -> None:
        with projects.opened(settings) as mine:
            start.wait()
            try:
                release.roll_back(mine, "toy", release.Request(actor=f"op{number}", reason="alert"))
                results.append("done")
            except errors.NothingToDo:
                results.append("already")

    threads = [threading.Thread(target=answer, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    with projects.opened(settings) as ctx:
        assert ctx.ledger.newest("toy") == before + 1
        assert ctx.ledger.state("toy").stable == b
        audit.checkpoint(ctx.ledger, "toy", settings.keys)
        assert audit.verify(ctx.ledger, "toy", settings.keys).problems == ()
    assert sorted(results) == ["already"] * 7 + ["done"]


def test_going_back_one_further_needs_to_say_so(settings: Settings) -> None:
    """Moments after a rollback another one is taken for the same alarm, unless it names the revision it saw."""
    with projects.opened(settings) as ctx:
        a, _, _ = projects.released(ctx, 1, 2, 3)
        first = release.roll_back(ctx, "toy", release.Request(actor="ann", reason="bad")).revision
        with pytest.raises(errors.NothingToDo, match=f"--expect {first.number}"):
            release.roll_back(ctx, "toy", release.Request(actor="bob", reason="bad"))
        assert (
            release.roll_back(ctx, "toy", release.Request(actor="ann", reason="still bad", expected=first.number)).revision.state.stable
            == a
        )


def test_what_was_released_after_a_rollback_can_be_taken_back_at_once(settings: Settings) -> None:
    """A repair that was released in haste and is worse: no memory of the rollback before it may stand in the way."""
    with projects.opened(settings) as ctx:
        _, b, _ = projects.released(ctx, 1, 2, 3)
        release.roll_back(ctx, "toy", release.Request(actor="ann", reason="bad"))
        repair = projects.build(ctx, 4)
        release.propose(ctx, "toy", repair, release.Request(actor="ann", reason="repaired"))
        with pytest.raises(errors.NothingToDo, match="was rolled back"):
            release.roll_back(ctx, "toy", release.Request(actor="bob", reason="bad"))
        advance.advance(ctx, "toy", ready={repair}, actor="test")
        back = release.roll_back(ctx, "toy", release.Request(actor="ann", reason="the repair is worse")).revision
        assert (back.state.stable, repair in back.state.marks) == (b, True)


def _in_canary(ctx: release.Context) -> str:
    """A bundle whose own configuration names a canary, on its way."""
    file = ctx.settings.services / "toy" / "service.yaml"
    file.write_text(file.read_text().replace("strategy: []", "strategy: [{phase: canary, weight_pct: 5}]"))
    shutil.rmtree(ctx.settings.home / "work" / "7", ignore_errors=True)
    return projects.build(ctx, 7)


@pytest.mark.parametrize("way", [release.PhaseOverride(skip=True), release.PhaseOverride(strategy=())], ids=["skipped", "none"])
def test_whoever_passes_over_a_bundles_own_phases_is_paged(settings: Settings, way: release.PhaseOverride) -> None:
    """By --skip-analysis and by --strategy none alike; one whose configuration names none is not."""
    with projects.opened(settings) as ctx:
        projects.released(ctx, 1)
        digest = _in_canary(ctx)
        done = release.propose(ctx, "toy", digest, release.Request(actor="ann", reason="now"), way=way)
        assert done is not None
        assert [page.key for page in ctx.ledger.pages("toy")] == ["skip"]
        assert done.revision.state.chain == ()


def test_a_way_is_chosen_once(settings: Settings) -> None:
    """The same command once more waits; another strategy for a release that is under way is refused, and not ignored."""
    with projects.opened(settings) as ctx:
        projects.released(ctx, 1)
        digest = _in_canary(ctx)
        mine = release.PhaseOverride(strategy=strategy.from_text("canary:20"))
        asked = release.Request(actor="ann", reason="now")
        assert release.propose(ctx, "toy", digest, asked, way=mine) is not None
        assert release.propose(ctx, "toy", digest, asked, way=mine) is None
        assert release.propose(ctx, "toy", digest, asked) is None
        before = ctx.ledger.newest("toy")
        with pytest.raises(errors.NotAllowed, match="rollback toy stable"):
            release.propose(ctx, "toy", digest, asked, way=release.PhaseOverride(strategy=strategy.from_text("canary:50")))
        assert ctx.ledger.newest("toy") == before


def test_a_home_that_lost_its_ledger_is_not_given_an_empty_one(settings: Settings) -> None:
    """With checkpoints but no ledger file, opening for writing is refused: an empty ledger knows no last good bundle."""
    with projects.opened(settings) as ctx:
        projects.released(ctx, 1)
        audit.checkpoint(ctx.ledger, "toy", settings.keys)
    (settings.home / "ledger.db").rename(settings.home / "elsewhere.db")
    with pytest.raises(errors.Unavailable, match="restore the file"), projects.opened(settings):
        pass
    assert not (settings.home / "ledger.db").exists()


def test_the_manifest_in_the_store_names_the_bundle(settings: Settings) -> None:
    """A bundle's id is the digest of its manifest in the store, so a worker needs no ledger to load it."""
    with projects.opened(settings) as ctx:
        digest = projects.build(ctx, 1)
        assert manifest.from_manifest(json.loads(ctx.store.path(digest).read_bytes())).id == digest


def test_a_hold_after_a_rollback_does_not_hide_it(settings: Settings) -> None:
    """The same alarm is still the same alarm, and a target that does not get ready is still left, with a hold in between."""
    with projects.opened(settings) as ctx:
        a, b, _ = projects.released(ctx, 1, 2, 3)
        release.roll_back(ctx, "toy", release.Request(actor="ann", reason="bad"))
        release.hold(ctx, "toy", release.Request(actor="ann", reason="freeze"))
        with pytest.raises(errors.NothingToDo, match="was rolled back"):
            release.roll_back(ctx, "toy", release.Request(actor="bob", reason="bad"))
        later = time.time() + 60
        further = advance.go_on_back(ctx.with_clock(lambda: later), "toy", view=seen(now=later, ready={a}, unready={b}), actor="controller")
        assert further is not None
        assert further.revision.state.stable == a


def test_with_nothing_further_back_automation_is_refused_without_filling_the_trail(settings: Settings) -> None:
    """Every look at it raises the same refusal; none of them writes."""
    with projects.opened(settings) as ctx:
        a, _ = projects.released(ctx, 1, 2)
        release.roll_back(ctx, "toy", release.Request(actor="ann", reason="bad"))
        later = time.time() + 60
        before = len(list(audit.export(ctx.ledger, "toy")))
        for _ in range(5):
            with pytest.raises(errors.NotAllowed):
                advance.go_on_back(ctx.with_clock(lambda: later), "toy", view=seen(now=later, unready={a}), actor="controller")
        assert len(list(audit.export(ctx.ledger, "toy"))) == before


def test_a_plan_survives_what_does_not_concern_it(settings: Settings) -> None:
    """Between plan and confirmation the bake ends: the rollback goes on. Another bundle is promoted: it does not."""
    with projects.opened(settings) as ctx:
        projects.released(ctx, 1)
        b = projects.build(ctx, 2)
        release.propose(ctx, "toy", b, release.Request(actor="ann", reason="go"))
        advance.advance(ctx, "toy", ready={b}, actor="ann")
        planned = ctx.ledger.state("toy")
        advance.advance(ctx.with_clock(lambda: time.time() + 5), "toy", ready={b}, actor="controller")
        assert ctx.ledger.newest("toy") == planned.revision + 1
        assert release.roll_back(ctx, "toy", release.Request(actor="ann", reason="bad", planned=planned)).revision.verb == "rollback"
        with pytest.raises(errors.Conflict, match="has changed since"):
            release.roll_back(ctx, "toy", release.Request(actor="bob", reason="bad", planned=planned))


def test_a_target_on_an_unreadable_disk_is_passed_over(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    """A part that cannot be read just now is no place to go back to; the next older bundle is."""
    with projects.opened(settings) as ctx:
        a, b, _ = projects.released(ctx, 1, 2, 3)
        verify = type(ctx.store).verify_bundle

        def failing(store: object, bundle: manifest.Bundle, *, deep: bool = True) -> None:
            if bundle.id == b:
                raise errors.Unavailable("input/output error; check the disk")
            verify(store, bundle, deep=deep)  # type: ignore[arg-type]

        monkeypatch.setattr(type(ctx.store), "verify_bundle", failing)
        assert release.roll_back(ctx, "toy", release.Request(actor="ann", reason="bad")).revision.state.stable == a
