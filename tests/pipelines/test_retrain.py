"""The job `retrain`: a new bundle is built by the service's own job and goes through the normal rollout."""

from __future__ import annotations

from pathlib import Path

import dagster as dg
import pytest

from dagster_lastgood.jobs import retrain
from lastgood import release
from lastgood.drift import bundle_comparison as drift_compare
from lastgood.drift import watch as drift_watch
from tests.drift import project as toy
from tests.pipelines import world
from tests.pipelines.test_jobs import controller, failure, home, metadata, run  # noqa: F401  # a fixture

ASKED = {"service": "flights", "reason": "drift", "wait_s": 0.0}


def test_what_is_built_becomes_the_candidate(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:  # noqa: F811
    """Never stable at once: its phases and gates decide, and the controller goes on with it."""
    (stable,) = world.released(home, "a")
    with release.open_context(world.settings(home)) as ctx:
        fresh = world.register(ctx, "b", home / "scratch")
    monkeypatch.setattr(retrain, "build", lambda context, config, builds: fresh)
    with controller(home):
        result = run(home, "retrain", "retrain", **ASKED)
    assert result.success, failure(result)
    with release.open_context(world.settings(home), read_only=True) as ctx:
        state = ctx.ledger.state("flights")
        newest = ctx.ledger.history("flights", limit=5)
    assert (state.stable, state.candidate) == (stable, fresh)
    assert any(revision.reason == "drift" for revision in newest)
    assert metadata(result)["lastgood/bundle"] == stable


def test_a_build_that_fails_releases_nothing(home: Path) -> None:  # noqa: F811
    """Months that overlap are refused by the first stage; the run says which build it was."""
    (stable,) = world.released(home, "a")
    ops = {"flights__data": {"config": {"train": [13], "evaluate": [1]}}}
    result = run(home, "retrain", "retrain", **ASKED, ops=ops)
    assert not result.success
    assert "the build failed in run" in failure(result)
    assert world.stable(home) == stable


def test_a_service_without_a_build_job_is_refused(home: Path) -> None:  # noqa: F811
    """With what is missing."""
    result = run(home, "retrain", "retrain", **{**ASKED, "service": "nothing"})
    assert not result.success
    assert "has no build job" in failure(result)


def test_the_newest_bundle_of_the_build_is_released(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:  # noqa: F811
    """The id is read from the materialization of the run itself."""

    @dg.asset(key=["flights", "bundle"])
    def bundle() -> dg.MaterializeResult:
        return dg.MaterializeResult(metadata={"lastgood/bundle": "sha256:made"})

    defs = dg.Definitions(assets=[bundle], jobs=[dg.define_asset_job("build", selection=[bundle], executor_def=dg.in_process_executor)])
    with dg.DagsterInstance.ephemeral() as instance, dg.build_op_context(instance=instance) as context:
        assert (
            retrain.build(context, retrain.Retrain(service="flights", reason="drift"), lambda _: defs.resolve_job_def("build"))
            == "sha256:made"
        )


def test_what_is_built_is_held_beside_stable_on_the_rows_since_the_alarm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Written down with the new bundle; it decides nothing, and nothing to compare is no error."""
    settings = toy.make(tmp_path)
    with release.open_context(settings) as ctx:
        stable = toy.build(ctx, 0.0)
        toy.promote(ctx, stable, at=toy.START)
        fresh = toy.build(ctx, -2.0)
        monkeypatch.setattr("lastgood.system.clock.now", lambda: toy.START + 4 * toy.HOUR_S + 10)
        asked = retrain.Retrain(service=toy.SERVICE, reason="drift")
        with dg.build_op_context() as context:
            retrain.hold_beside(context, asked, fresh, settings=settings)
            assert toy.evidence(ctx, fresh, drift_compare.KIND) == []
            traffic = toy.Traffic(settings, stable)
            for hour in range(4):
                traffic.hour(hour, toy.World(mean=1.2, bias=-2.0))
            drift_watch.evaluate_next_window(ctx, drift_watch.watch_of_service(ctx, toy.SERVICE), now=toy.START + 4 * toy.HOUR_S + 10)
            retrain.hold_beside(context, asked, fresh, settings=settings)
        (said,) = toy.evidence(ctx, fresh, drift_compare.KIND)
        assert (said["bundle"], said["other"]) == (stable, fresh)
        assert said["compared"]["low"] > 0
        assert ctx.ledger.state(toy.SERVICE).stable == stable
