"""How long the layers took to follow what the controller itself did is known afterwards, not only what a command waited for."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from lastgood import release
from lastgood import settings as settings_
from lastgood.controller import analysis_loop, convergence_notes, loop
from lastgood.gates import base
from lastgood.release import convergence
from lastgood.reports import incident, incident_loop
from lastgood.reports import record as rollout_record
from lastgood.service import schema
from lastgood.settings import Settings
from lastgood.sources import base as sources
from lastgood.testing import projects
from tests import memory
from tests.controller.test_loop import until

GATES = "gates:\n  errors: {metric: error_rate, watch: bake, window_s: 1, min_samples: 20, margin: 0.01}\n"


class Numbers:
    """Every look at a gate sees a hundred requests; those of `bad` fail."""

    bad = ""

    def __init__(self, *_: object) -> None:
        pass

    def read(self, name: str, asked: sources.MeasurementRequest, *, now: float, cursor: sources.Cursor | None) -> sources.SourceReading:
        """What the watched bundle did since the last look."""
        failed = 60 if asked.watched == Numbers.bad else 0
        watched = base.Tally(n=100, bad=failed) if name == "errors" else base.Tally(n=1, value=0.0)
        return sources.SourceReading(observations=[base.Observation(at=now, watched=watched)] if cursor else [], cursor={"at": now})

    def close(self) -> None:
        """Nothing is open."""


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    """A project with layers in memory, one gate, and a controller that looks often."""
    made = projects.project(tmp_path, extra=GATES)
    file = made.services / "toy" / schema.FILE
    file.write_text(file.read_text().replace("bake_s: 2", "bake_s: 60, recovery: {within_s: 30, min_samples: 20}"))
    quick = "[controller]\npoll_s = 0.02\nresync_s = 0.3\nmeasure_s = 0.1\n"
    (tmp_path / "lastgood.toml").write_text(memory.ADAPTERS + quick)
    return settings_.load(made.project, environ={})


@pytest.fixture
def running(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The controller's process as one thread, with the reader that writes incidents beside it."""
    monkeypatch.setattr(analysis_loop.catalog, "Sources", Numbers)
    monkeypatch.setattr(Numbers, "bad", "")
    monkeypatch.setattr(convergence_notes, "FOREIGN_S", 0.5)
    memory.world(settings, "toy")
    stop = threading.Event()
    asked: dict[str, Any] = {"stop": stop, "readers": (lambda own: incident_loop.IncidentLoop(own, every_s=0.05),)}
    thread = threading.Thread(target=loop.run, args=(settings,), kwargs=asked)
    thread.start()
    yield
    stop.set()
    thread.join(10)
    assert not thread.is_alive()


def noted(ctx: release.Context, verb: str) -> list[dict[str, Any]]:
    """What was noted of how the layers followed the revisions of *verb*."""
    numbers = [revision.number for revision in ctx.ledger.history("toy") if revision.verb == verb]
    return [note for note in ctx.ledger.notes("toy", kind="receipt") if note["revision"] in numbers]


def test_an_automatic_rollback_says_how_long_traffic_took(settings: Settings, running: None) -> None:
    """In the audit trail, in the report, and in the incident, which the reader of the ledger writes; each step is noted once."""
    with projects.opened(settings) as ctx:
        projects.released(ctx, 1)
        Numbers.bad = second = projects.build(ctx, 2)
        release.propose(ctx, "toy", second, release.Request(actor="ann", reason="better"))
        until(lambda: noted(ctx, "rollback"), what="the rollback was noted")
        (note,) = noted(ctx, "rollback")
        assert 0 <= note["traffic_ms"] < 10_000
        assert note["commit_ms"] > 0
        assert note["layers"]["traffic"] == "converged"
        file = incident.file_of(settings.home, "toy", rollout_record.newest(ctx.ledger, "toy"))
        until(file.exists, what="the incident was written", seconds=40)
        record = json.loads(file.read_text("utf-8"))
        assert record["bad_bundle"] == second
        assert record["seconds"]["verdict_to_traffic"] == pytest.approx(
            record["seconds"]["verdict_to_commit"] + note["traffic_ms"] / 1000, abs=1e-4
        )
        assert len(ctx.ledger.notes("toy", kind="incident")) == len(noted(ctx, "cut-over")) == 1


def test_what_a_command_has_noted_is_not_noted_again(settings: Settings, running: None) -> None:
    """A command that waits for the layers notes it; a change whose maker has not is noted once traffic follows."""
    with projects.opened(settings) as ctx:
        projects.released(ctx, 1, 2)
        until(lambda: memory.world(settings, "toy").traffic.served, what="traffic follows")
        convergence.carry_out(ctx, "toy", release.roll_back, release.Request(actor="ann", reason="bad"))
        release.hold(ctx, "toy", release.Request(actor="ann", reason="freeze"))
        until(lambda: noted(ctx, "hold"), what="the hold, which nobody waited for, was noted")
        assert len(noted(ctx, "hold")) == len(noted(ctx, "rollback")) == 1
