"""Processor time of the controller process: idle, and in a canary with the gates of the demonstration."""

from __future__ import annotations

import dataclasses
import time
from pathlib import Path
from typing import Any

import yaml

from bench import live_project, measure
from bench.live_stack import Live
from bench.table import Row, Table

RATE = 150.0
SETTLE_S = 4.0
DEMO = Path(__file__).resolve().parent.parent / "demos" / "flights.yaml"


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Cpu:
    """Milliseconds of processor time per second, over `seconds`."""

    seconds: float
    idle: float
    canary: float
    gates: tuple[str, ...]


def measure_cpu(live: Live, *, seconds: float, number: int) -> Cpu:
    """Count it twice under the same load; release *number* is built for it."""
    gates: dict[str, Any] = yaml.safe_load(DEMO.read_text("utf-8"))["gates"]
    strategy = [{"phase": "shadow", "min_s": 3600}, {"phase": "canary", "weight_pct": 5, "mirror_pct": 100, "min_s": 3600}]
    live_project.configure(live.settings, port=live.port, strategy=strategy, gates=gates)
    candidate = live_project.build(live.ctx, number)
    with live.load(rate=RATE, label_delay_s=1.0, name="cpu"):
        time.sleep(SETTLE_S)
        idle = _per_second(live, seconds)
        live.release_hold()
        live.propose(candidate, strategy[1])
        live.until_phase("canary")
        time.sleep(SETTLE_S)
        canary = _per_second(live, seconds)
        state = live.state()
        if state.phase != "canary":
            last = live.since(0)[-1]
            raise RuntimeError(f"the canary ended while it was measured: {last.verb}: {last.reason}")
        live.call_off()
    return Cpu(seconds=seconds, idle=idle, canary=canary, gates=(*gates, "oom", "ejections", "split"))


def _per_second(live: Live, seconds: float) -> float:
    record = live.controller()
    if record is None:
        raise RuntimeError("no controller runs")
    before, began = measure.cpu_s(record.pid), time.monotonic()
    time.sleep(seconds)
    return (measure.cpu_s(record.pid) - before) / (time.monotonic() - began) * 1000


def table(found: Cpu) -> Table:
    """The result."""
    return Table(
        title="Processor time of the controller process",
        rows=[
            Row(what="idle: a proven stable bundle, no candidate", unit="ms per s", ours=found.idle),
            Row(what="canary: a look a second at every gate", unit="ms per s", ours=found.canary),
        ],
        notes=(
            (
                f"All threads, from /proc/PID/stat, over {found.seconds:g} s each; {RATE:g} requests/s, each followed by its label. "
                f"Gates of the demonstration: {', '.join(found.gates)}; the canary is mirrored as well."
            ),
        ),
    )
