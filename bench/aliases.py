"""The control: a server that serves by MLflow aliases, and what its callers see while releases are switched.

A release is a model version and a prompt version. For each request the server asks MLflow for the current versions of the aliases
`stable` of both, like code that serves by alias, and answers with the pair. A switch sets both aliases,
one right after the other, from another process: MLflow has no transaction over two.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from bench import load, measure, shots
from bench.running import ROOT
from bench.shots import Shot
from lastgood import testing

RATE = 100.0
PAUSE_S = 0.3
CACHE_S = 1.0
START_S = 120.0


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Control:
    """What callers saw. `mixed_for_ms` runs from the beginning of a switch to its last mixed answer, where there was one."""

    name: str
    flips: int
    answers: int
    failed: int
    mixed: int
    mixed_flips: int
    mixed_for_ms: measure.Spread | None
    note: str


def measure_aliases(folder: Path, *, count: int) -> list[Control]:
    """*count* switches with aliases read for every request, and as many with each alias cached for a second."""
    folder.mkdir()
    uri = f"sqlite:///{folder / 'mlflow.db'}"
    fresh = _control(folder, uri, name="MLflow aliases, read per request", cache_s=0.0, count=count, pause_s=PAUSE_S)
    cached = _control(
        folder, uri, name=f"MLflow aliases, cached {CACHE_S:g} s", cache_s=CACHE_S, count=max(1, count // 5), pause_s=2 * CACHE_S
    )
    return [fresh, cached]  # fmt: skip


def measure_load_prompt(folder: Path, *, count: int) -> Control:
    """*count* switches with the model's alias read for every request, and the prompt by `load_prompt`, which caches its alias for 60 s."""
    folder.mkdir()
    name = "MLflow: model by alias, prompt by load_prompt"
    return _control(folder, f"sqlite:///{folder / 'mlflow.db'}", name=name, cache_s=0.0, count=count, pause_s=PAUSE_S, load_prompt=True)


def _control(folder: Path, uri: str, *, name: str, cache_s: float, count: int, pause_s: float, load_prompt: bool = False) -> Control:
    port, log, out = testing.free_port(), folder / "server.log", folder / f"cache-{cache_s:g}.jsonl"
    with (
        _serving(port=port, uri=uri, cache_s=cache_s, log=log, load_prompt=load_prompt),
        load.running(port=port, out=out, log=log, rate=RATE),
    ):
        began = _switch(uri, count=count, pause_s=pause_s, log=log)
    how = "both aliases read from MLflow for every request" if not cache_s else f"each alias remembered for {cache_s:g} s on its own"
    how = "the model's alias read for every request, the prompt by mlflow.genai.load_prompt" if load_prompt else how
    return _summed_up(shots.read(out), began, name=name, how=how, count=count, pause_s=pause_s)


@contextlib.contextmanager
def _serving(*, port: int, uri: str, cache_s: float, log: Path, load_prompt: bool) -> Iterator[None]:
    """The server, answering."""
    argv = [sys.executable, "-m", "bench.alias_server", "serve", "--uri", uri, "--port", str(port), "--cache-s", str(cache_s)]
    argv += ["--load-prompt"] if load_prompt else []
    with log.open("ab") as talk:
        process: Any = subprocess.Popen(argv, cwd=ROOT, stdout=subprocess.PIPE, stderr=talk)
    try:
        if process.stdout.readline().strip() != b"ready":
            raise RuntimeError(f"the control server did not start: {log.read_text('utf-8', 'replace')[-800:]}")
        yield
    finally:
        process.terminate()
        process.wait(30)
        process.stdout.close()


def _switch(uri: str, *, count: int, pause_s: float, log: Path) -> list[float]:
    """Switch *count* times from a process of its own; when each switch began (Unix seconds)."""
    argv = [sys.executable, "-m", "bench.alias_server", "switch", "--uri", uri, "--count", str(count), "--pause-s", str(pause_s)]
    with log.open("ab") as talk:
        done = subprocess.run(argv, cwd=ROOT, stdout=subprocess.PIPE, stderr=talk, check=False, timeout=START_S + count * (pause_s + 5))
    if done.returncode:
        raise RuntimeError(f"the aliases could not be switched: {log.read_text('utf-8', 'replace')[-800:]}")
    return [float(moment) for moment in json.loads(done.stdout)]


def _is_mixed(shot: Shot) -> bool:
    value: Mapping[str, Any] = shot.value
    return shot.status == 200 and value.get("model") != value.get("prompt")


def _summed_up(fired: Sequence[Shot], began: Sequence[float], *, name: str, how: str, count: int, pause_s: float) -> Control:
    mixed = sorted(shot.received for shot in fired if _is_mixed(shot))
    lasted = []
    for start, end in zip(began, [*began[1:], float("inf")], strict=True):
        within = [moment for moment in mixed if start <= moment < end]
        if within:
            lasted.append((within[-1] - start) * 1000)
    return Control(
        name=name,
        flips=count,
        answers=len(fired),
        failed=len(shots.failed(fired)),
        mixed=len(mixed),
        mixed_flips=len(lasted),
        mixed_for_ms=measure.spread(lasted) if lasted else None,
        note=(
            f"{name}: FastAPI server, one process, MlflowClient on SQLite, {how} (MLflow itself remembers a prompt's alias for 60 s); "
            f"model and prompt alias set one right after the other by another process, {pause_s:g} s between switches; {RATE:.0f} requests/s."
        ),
    )
