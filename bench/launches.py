"""The same rollback by `dagster job launch`, with nothing running but a DAGSTER_HOME."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Mapping
from pathlib import Path

from bench import load, measure, project
from bench.commands import RATE, SETTLE_S, Change, Measured, measured
from bench.running import ROOT, Stack
from bench.table import Row, Table

COMMAND = "lastgood rollback"
WITHIN_S = 180.0


def measure_launches(stack: Stack, *, count: int, out: Path, home: Path) -> Measured:
    """Release the bad bundle and launch the job `rollback`, *count* times, under load. *home* becomes the DAGSTER_HOME."""
    env = {**stack.environment, "DAGSTER_HOME": str(home)}
    prepared = measure.run([sys.executable, "-m", "dagster_lastgood.home"], env=env, cwd=ROOT, log=stack.log)
    if prepared.code:
        raise RuntimeError(f"no DAGSTER_HOME could be made; read {stack.log}")
    changes = []
    with load.running(port=stack.port, out=out, log=stack.log, rate=RATE):
        for _ in range(count):
            stack.promote(stack.bad)
            stack.wait_until_drained()
            time.sleep(SETTLE_S)
            changes.append(_launch(stack, env=env))
            time.sleep(SETTLE_S)
    return measured(stack, changes, out)


def _launch(stack: Stack, *, env: Mapping[str, str]) -> Change:
    config = json.dumps({"ops": {"roll_back": {"config": {"service": project.SERVICE, "reason": "measured"}}}})
    program = Path(sys.executable).with_name("dagster")
    before, done_before = stack.newest().number, _successes(stack.log)
    argv = [str(program), "job", "launch", "-w", "workspace.yaml", "-j", "rollback", "--config-json", config]
    launched = measure.run(argv, env=env, cwd=ROOT, log=stack.log)
    # The command ends once the run is launched; the run itself continues in a process of its own.
    deadline = time.monotonic() + WITHIN_S
    stack.log.open("a").write(launched.out)
    while stack.newest().number == before or _successes(stack.log) == done_before:
        if launched.code or time.monotonic() > deadline:
            raise RuntimeError(f"dagster job launch did not roll back: {stack.log.read_text('utf-8', 'replace')[-800:]}")
        time.sleep(0.1)
    ended, revision = time.time(), stack.newest()
    return Change(
        revision=revision.number, began=launched.began, committed=revision.at, ended=ended, cpu_s=launched.cpu_s, commit_ms=0.0, traffic_ms=None
    )  # fmt: skip


def _successes(log: Path) -> int:
    return log.read_text("utf-8", "replace").count("RUN_SUCCESS")


def table(found: Measured, by_hand: Measured) -> Table:
    """Dagster's way compared with the direct one."""
    to_commit, to_last_old = found.to_commit_ms(), found.to_last_old_ms()
    whole = measure.spread([(one.ended - one.began) * 1000 for one in found.changes])
    by_hand_whole = measure.median([(one.ended - one.began) * 1000 for one in by_hand.changes])
    rows = [
        Row(what="command start -> last answer of the old bundle", unit="ms", ours=to_last_old.p50,
            peers={COMMAND: by_hand.to_last_old_ms().p50}, spread=to_last_old, below=15_000),
        Row(what="command start -> ledger commit", unit="ms", ours=to_commit.p50, peers={COMMAND: by_hand.to_commit_ms().p50}, spread=to_commit),
        Row(what="command start -> everything has ended", unit="ms", ours=whole.p50, peers={COMMAND: by_hand_whole}, spread=whole),
        Row(what="requests", unit="count", ours=len(found.shots)),
        Row(what="failed requests", unit="count", ours=found.failed, below=1),
        Row(what="answers that mix two bundles", unit="count", ours=found.mixed, below=1),
    ]  # fmt: skip
    return Table(
        title=f"`dagster job launch -w workspace.yaml -j rollback` under the same load, {len(found.changes)} times",
        rows=rows,
        ours="dagster job launch (p50)",
        notes=(
            "No daemon, no web server; DAGSTER_HOME made once by `python -m dagster_lastgood.home`. The same stack and service as above.",
        ),
    )
