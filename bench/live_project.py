"""A small project whose bundles misbehave on demand: errors, slow answers, a hang, a crash, worse scores, memory that grows.

The fault of release *n* is described in the file `faults/n.json` of the project; its worker reads it at every request, so a
fault begins at a known moment. Without the file there is no fault. Warm-up rows are always answered correctly.
"""

from __future__ import annotations

import dataclasses
import json
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from bench import project
from lastgood import release
from lastgood import settings as settings_
from lastgood.service import schema
from lastgood.settings import Settings

SERVICE = project.SERVICE

RUNTIME = '''
"""Answers with the number it is asked about, as a probability, unless its fault file says otherwise."""

import json
import os
import random
import resource
import signal
import threading
import time
from pathlib import Path
from typing import Any

import pydantic

from lastgood.serving import runtime

WARM_UP = 0.515625


class Row(pydantic.BaseModel):
    model_config = pydantic.ConfigDict(extra="forbid", strict=True)
    x: float


class Runtime(runtime.Runtime):
    Request = Row
    concurrency = 96

    def __init__(self, file: Path) -> None:
        self._file = file
        self._read_at = 0.0
        self._reading = threading.Lock()
        self._fault: dict[str, Any] = {}
        self._failed = 0
        self._grown: list[bytes] = []
        self._warm = False

    @classmethod
    def load(cls, parts: Any, options: Any) -> "Runtime":
        return cls(Path(options["faults"]) / (parts["model"].read_text() + ".json"))

    def _look(self) -> dict[str, Any]:
        try:
            changed = self._file.stat().st_mtime_ns
            with self._reading:
                if changed != self._read_at:
                    self._fault = json.loads(self._file.read_text("utf-8"))
                    self._failed = 0
                    self._read_at = changed
        except FileNotFoundError:
            return {}
        return self._fault

    def predict(self, rows: Any) -> list[dict[str, Any]]:
        if not self._warm:
            time.sleep(self._look().get("warm_s", 0.0))
        fault = self._look() if self._warm else {}
        self._warm = True
        if fault.get("count"):
            with self._file.with_suffix(".calls").open("a") as calls:
                calls.write("x")
        if fault.get("crash"):
            os.kill(os.getpid(), signal.SIGSEGV)
        if fault.get("grow_mb"):
            self._grow(fault["grow_mb"])
        if fault.get("sleep_s"):
            time.sleep(fault["sleep_s"])
        if random.random() < fault.get("errors", 0.0) or self._among_the_first(fault.get("first", 0), rows):
            raise RuntimeError("a fault that was asked for")
        if any(row.x > 1e9 for row in rows):
            raise ArithmeticError("no code of ours reckons with such a number")
        worse = fault.get("worse", 0.0)
        return [{"probability": row.x + (0.5 - row.x) * 2 * worse} for row in rows]

    def _among_the_first(self, most: int, rows: Any) -> bool:
        """Warm-up rows, by which a worker finds out whether it is well, fail with them and are not among them."""
        if any(row.x == WARM_UP for row in rows):
            return self._failed < most
        self._failed += 1
        return self._failed <= most

    def _grow(self, mb: int) -> None:
        if not self._grown:
            # A machine that really runs out of memory would take others down with it.
            used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
            resource.setrlimit(resource.RLIMIT_AS, (used + 64 * mb * 2**20, resource.RLIM_INFINITY))
        self._grown.append(bytes(mb * 2**20))

    def label(self, outcome: Any) -> float | None:
        late = outcome.get("late")
        return None if late is None else float(late)

    def warm_up(self) -> list[dict[str, Any]]:
        return [{"x": WARM_UP}]
'''


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Faulty:
    """A registered bundle, and the file with its fault."""

    bundle: str
    file: Path

    def begin(self, **fault: Any) -> float:
        """Let it misbehave from now on; returns that moment (Unix seconds).

        `errors` is a share of requests answered 500, `first` this many requests from now on are, `sleep_s` seconds added to each, `count`
        counts them, `crash` ends the process at the next request, `warm_s` is how long the next warm-up takes, `grow_mb` retains this many
        MiB more with each until the process may have no more, `worse` (0 to 1) moves probabilities towards their opposite.
        """
        staged = self.file.with_suffix(".new")
        staged.write_text(json.dumps(fault), "utf-8")
        staged.replace(self.file)
        return time.time()

    @property
    def calls(self) -> int:
        """Number of requests since `count` was set."""
        file = self.file.with_suffix(".calls")
        return len(file.read_text()) if file.exists() else 0

    def heal(self) -> None:
        """Remove the fault."""
        self.file.unlink(missing_ok=True)


def make(root: Path, *, registry: str = "", controller: Mapping[str, Any] | None = None) -> Settings:
    """A project in *root* with its home inside: real workers, a real Envoy. *controller* overrides settings of that group.

    Nothing can be built before `configure`.
    """
    (root / "services" / SERVICE).mkdir(parents=True)
    (root / "faults").mkdir()
    (root / "services" / SERVICE / "runtime.py").write_text(RUNTIME, "utf-8")
    (root / "requirements.lock").write_text("toy==1\n", "utf-8")
    lines = ["[layers]", f'registry = "{registry}"', "[controller]", *(f"{key} = {value}" for key, value in (controller or {}).items())]
    (root / "lastgood.toml").write_text("\n".join(lines) + "\n", "utf-8")
    return settings_.load(root, environ={})


def configure(
    settings: Settings,
    *,
    port: int,
    strategy: Sequence[Mapping[str, Any]] = (),
    gates: Mapping[str, Mapping[str, Any]] | None = None,
    release: Mapping[str, Any] | None = None,
    traffic: Mapping[str, Any] | None = None,
) -> None:
    """Write `service.yaml`: it applies to bundles that are built from now on."""
    value = {
        "schema": "lastgood.service/v1",
        "service": SERVICE,
        "tier": "real-time-api",
        "owner": "bench",
        "parts": ["model", "config", "environment"],
        "traffic": {"port": port, **(traffic or {})},
        "serving": {"ready_timeout_s": 60},
        "release": {"strategy": [dict(phase) for phase in strategy], "bake_s": 5, **(release or {})},
        "gates": {name: dict(gate) for name, gate in (gates or {}).items()},
        "options": {"faults": str(settings.project / "faults")},
    }
    (settings.services / SERVICE / schema.FILE).write_text(yaml.safe_dump(value), "utf-8")


def build(ctx: release.Context, number: int) -> Faulty:
    """Freeze and register release *number* with the current configuration."""
    made = project.build(ctx, number)
    return Faulty(bundle=made.bundle, file=ctx.settings.project / "faults" / f"{number}.json")
