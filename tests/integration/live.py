"""A running stack whose candidate can be made to misbehave, and what must hold once a gate has taken it out."""

from __future__ import annotations

import contextlib
import json
import shutil
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from bench import live_load, live_project, live_stack
from bench.live_project import SERVICE, Faulty
from bench.live_stack import Live
from lastgood import context, ledger, testing
from lastgood.analysis import follow
from lastgood.analysis import run as analysis_run
from lastgood.bundle import manifest
from lastgood.controller import analysis_loop
from lastgood.gates import base
from lastgood.ledger import audit

RATE = 120.0
LONG_S = 45.0
"""Time for what takes a few seconds on an idle machine."""

SHADOW = {"phase": "shadow", "min_s": 2}
CANARY = {"phase": "canary", "weight_pct": 25, "min_s": 2}
ENDLESS = {"min_s": 3600}
"""A phase that ends by a verdict alone."""
GATES: Mapping[str, Mapping[str, Any]] = {
    "errors": {"metric": "error_rate", "window_s": 1, "min_samples": 50, "margin": 0.05},
    # Far above what a healthy worker takes on a busy machine.
    "latency": {"metric": "latency_p99", "max_ms": 900, "window_s": 1, "min_samples": 50, "settle_s": 1},
    # A hiccup of the machine puts neither arm out of its share for long enough to matter here.
    "split": {"metric": "sample_ratio", "kind": "observe"},
}
SLOW = {"sleep_s": 1.4}
HANGS = {"sleep_s": 8.0}
FAILS = {"errors": 1.0}
TRAFFIC = {"timeout_s": 2.5, "idempotent": False}
"""Users see each failure of the bundle that they are on: nobody asks a second time."""
RETRIED = {"timeout_s": 5, "per_try_timeout_s": 1}


@contextlib.contextmanager
def running(
    root: Path, *phases: Mapping[str, Any], traffic: Mapping[str, Any] = TRAFFIC, control: bool = False, mlflow: Path | None = None
) -> Iterator[tuple[Live, Faulty]]:
    """A stack with stable traffic on release 1, and release 2, whose strategy are *phases*, with a *control* arm or without.

    *mlflow* is an empty database of it.
    """
    settings = live_project.make(root / "live", registry="mlflow" if mlflow else "", controller={"resync_s": 2.0})
    if mlflow:
        settings.home.mkdir()
        shutil.copyfile(mlflow, settings.home / "mlflow.db")
    release = {"bake_s": 1, "control_arm": control, "recovery": {"within_s": 30, "min_samples": 50}}
    live_project.configure(settings, port=testing.free_port(), strategy=phases, gates=GATES, release=release, traffic=traffic)
    with live_stack.up(settings) as live:
        yield live, live_project.build(live.ctx, 2)


def taken_out(live: Live, candidate: Faulty, *, after: int) -> ledger.Revision:
    """Wait until automation has taken *candidate* out; check that it was done once, for stated reasons, and that a person is told.

    *after* is the revision of the proposal. Returns the revision of the step back.
    """
    ended = live.until_verb(after, "rollback", within_s=LONG_S)
    assert ended is not None, f"nobody took it out; the gates say {standing(live)}"
    live.until(live.all_stable, what="traffic on stable")
    state = live.ctx.ledger.state(SERVICE, about=(candidate.bundle,))
    assert (state.stable, state.candidate, state.weight_pct) == (live.stable.bundle, None, 0)
    assert state.marks[candidate.bundle].kind == "quarantined"
    assert ended.actor == analysis_loop.ACTOR
    assert [verdict["gate"] for verdict in ended.evidence["verdicts"]]
    assert "gate" in ended.reason
    live.until(lambda: pages(live, candidate), what="page")
    return ended


def once(live: Live, *, after: int) -> ledger.Revision:
    """Wait until it is known whether the step back helped; check that there was just one, and that the trail is whole."""
    verified = live.until_verb(after, "verified", within_s=LONG_S)
    assert verified is not None, f"nothing was verified; the gates say {standing(live)}"
    assert len(live.since(after, "rollback")) == 1
    report = audit.verify(live.ctx.ledger, SERVICE, live.settings.keys)
    assert not report.problems, report.problems
    return verified


def pages(live: Live, candidate: Faulty) -> list[dict[str, Any]]:
    """Pages on disk that say that *candidate* was taken out."""
    told = [json.loads(file.read_text("utf-8")) for file in sorted((live.settings.home / "pages").glob("[!.]*.json"))]
    return [page for page in told if manifest.short(candidate.bundle) in page["summary"] and "taken out" in page["summary"]]


def standing(live: Live) -> dict[str, str]:
    """What the gates say by now, for a failed test to tell."""
    state = live.state()
    found = follow.standing(live.ctx, state, now=time.time())
    return {name: f"{said.verdict.outcome}: {said.verdict.why}" for name, said in found.items()}


def judged_again(live: Live, candidate: Faulty, ended: ledger.Revision) -> Mapping[str, base.Verdict]:
    """What somebody who has nothing but the ledger makes of the measurements that were there when *ended* was committed."""
    before = live.ctx.ledger.revision(SERVICE, ended.number - 1).state
    proposed = live.ctx.ledger.revision(SERVICE, before.rollout or 0)
    service = context.judged_by(live.ctx, before)
    assert before.candidate == candidate.bundle
    (question,) = analysis_run.questions(before, service, proposed_at=proposed.at, now=ended.at)
    return analysis_run.Analysis.resumed(question, book=live.ctx.ledger, service=SERVICE).verdicts(ended.evidence["verdicts"][0]["at"])


def looks(live: Live, *, after: int, phase: str) -> list[dict[str, Any]]:
    """The measurements of *phase* of the release that was proposed by revision *after*."""
    return list(live.ctx.ledger.recorded(SERVICE, f"{after}/{phase}"))


def lost(shots: Sequence[live_load.Shot], candidate: Faulty) -> list[live_load.Shot]:
    """Failed requests of users whom the candidate never had anything to do with."""
    touched = {shot.user for shot in shots if shot.bundle == candidate.bundle or shot.arm == "candidate"}
    return [shot for shot in live_load.failed(shots) if shot.user not in touched]
