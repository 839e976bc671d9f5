"""A small world for tests of the Dagster side: a home with a real ledger and store, tiny bundles, and the real command line.

The layers are switched off: what is tested here is what Dagster does with a revision, not how traffic moves.
"""

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from lastgood import release
from lastgood import settings as settings_
from lastgood.bundle import manifest, store
from lastgood.gates import base
from lastgood.release import advance, convergence
from lastgood.service import frozen as frozen_service
from lastgood.service import schema, strategy
from lastgood.settings import Settings

PROJECT = Path(__file__).resolve().parents[2]
QUIET = {
    "OMP_NUM_THREADS": "1",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "DO_NOT_TRACK": "1",
    "DVC_NO_ANALYTICS": "1",
    "GX_ANALYTICS_ENABLED": "false",
    "DAGSTER_DISABLE_TELEMETRY": "1",
}
NO_LAYERS = {"LASTGOOD_LAYERS_INFRASTRUCTURE": "", "LASTGOOD_LAYERS_TRAFFIC": "", "LASTGOOD_LAYERS_REGISTRY": ""}
GOOD = {"metrics": {"auc": 0.7, "brier": 0.16}}
AT_ONCE = release.PhaseOverride(strategy=())


def environment(home: Path, **more: str) -> dict[str, str]:
    """The environment of a command that works on *home*."""
    inherited = {name: value for name, value in os.environ.items() if not name.startswith(("LASTGOOD_", "DAGSTER_"))}
    return {**inherited, **QUIET, **NO_LAYERS, "LASTGOOD_HOME": str(home), "LASTGOOD_PROJECT": str(PROJECT), **more}


def settings(home: Path, **more: str) -> Settings:
    """Settings of *home* without layers, but for what *more* sets."""
    return settings_.load(PROJECT, environment(home, **more))


def register(ctx: release.Context, label: str, scratch: Path) -> str:
    """Register a bundle that differs from others by *label* in its model part; returns its id."""
    frozen = scratch / f"config-{label}"
    if not frozen.exists():
        schema.freeze(ctx.settings.services / "flights", frozen)
    stored = {
        "data": ctx.store.put_bytes(b'{"rows": 1}', name="data.json"),
        "model": ctx.store.put_bytes(b'{"label": "%s"}' % label.encode(), name="model.json"),
        "config": ctx.store.put(frozen),
        "environment": ctx.store.put_bytes(b'{"python": "3"}', name="environment.json"),
    }
    parts = [store.part(item, name=name, media_type="application/json", meta={}) for name, item in stored.items()]
    built = manifest.bundle_of("flights", *parts)
    release.register(ctx, built, provenance={}, actor="test", now=time.time(), untried=True)
    ctx.ledger.evaluate(built.id, kind="offline", report=GOOD, actor="test", now=time.time())
    return built.id


def released(home: Path, *labels: str) -> list[str]:
    """Register and promote one bundle per label, in order; the last one is stable. Returns their ids."""
    with release.open_context(settings(home)) as ctx:
        ids = [register(ctx, label, home / "scratch") for label in labels]
        for digest in ids:
            convergence.promote(ctx, "flights", digest, reason="test", actor="test", way=AT_ONCE)
    return ids


def in_canary(ctx: release.Context, digest: str, *, phases: str = "canary:5,canary:25") -> int:
    """Take *digest* into the first of *phases*; returns the revision that proposed it."""
    way = release.PhaseOverride(strategy=strategy.from_text(phases))
    proposed = release.propose(ctx, "flights", digest, release.Request(actor="test", reason="test"), way=way)
    advance.advance(ctx, "flights", ready={digest}, actor="test")
    return proposed.revision.number


def measure(ctx: release.Context, analysis: str, **seen: base.Observation) -> int:
    """Record one measurement, gate by gate, as the controller does."""
    body = {"step": 0, "observations": {gate: [one.to_json()] for gate, one in seen.items()}, "cursors": {}}
    return ctx.ledger.record("flights", analysis, body, now=time.time())


def requests(bad: int, of: int, *, beside: tuple[int, int] | None = (50, 10_000), at: float | None = None) -> base.Observation:
    """*bad* failed requests *of* the candidate's, and what stable did beside it."""
    alongside = base.Tally(n=beside[1], bad=beside[0]) if beside else None
    return base.Observation(at=time.time() if at is None else at, watched=base.Tally(n=of, bad=bad), beside=alongside, share=0.05)


def stable(home: Path) -> str | None:
    """The bundle that the ledger of *home* calls stable."""
    with release.open_context(settings(home), read_only=True) as ctx:
        return ctx.ledger.state("flights").stable


def dagster(*arguments: str, env: Mapping[str, str], cwd: Path, log: Path) -> int:
    """Run the `dagster` command of this interpreter; what it and the processes it leaves behind say goes to *log*."""
    program = Path(sys.executable).with_name("dagster")
    with log.open("ab") as out:
        return subprocess.run([program, *arguments], env=env, cwd=cwd, stdout=out, stderr=out, check=False, timeout=200).returncode


@contextmanager
def dagster_dev(*, env: Mapping[str, str], cwd: Path, log: Path, port: int) -> Iterator[None]:
    """`dagster dev` on *port* while the block runs. It is stopped as by Ctrl-C, with all it has started."""
    program = Path(sys.executable).with_name("dagster")
    with log.open("ab") as out:
        command = [program, "dev", "-w", "workspace.yaml", "-h", "127.0.0.1", "-p", str(port)]
        process = subprocess.Popen(command, env=env, cwd=cwd, stdout=out, stderr=out, start_new_session=True)
    try:
        yield
    finally:
        process.send_signal(signal.SIGINT)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(timeout=60)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)


def wait_for(condition: Callable[[], bool], *, log: Path, within_s: float = 200.0) -> None:
    """Poll until *condition* holds; after *within_s* seconds fail with the end of *log*."""
    deadline = time.monotonic() + within_s
    while not condition():
        if time.monotonic() > deadline:
            raise AssertionError(f"not within {within_s} s; the log ends:\n{log.read_text('utf-8', 'replace')[-4000:]}")
        time.sleep(0.2)


def clone(folder: Path) -> Path:
    """A project folder that shares this one's code but not its `.lastgood/`."""
    folder.mkdir()
    for name in (
        "pipelines",
        "assets",
        "sensors",
        "services",
        "lastgood",
        "workspace.yaml",
        "dagster.yaml",
        "lastgood.toml",
        "requirements.lock",
    ):
        (folder / name).symlink_to(PROJECT / name)
    return folder


def reconcile_forgets() -> None:
    """Drop what this process remembers of frozen configurations, as a new one would."""
    frozen_service._parsed.cache_clear()
