"""The stack on one machine: proxies, workers, the controller, and on request the Dagster and MLflow pages.

Everything is started detached and survives the command, the terminal and each other. `up` is idempotent.

What does not belong here: stacks of several machines, deciding what serves.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

from lastgood import errors, release
from lastgood import ledger as ledgers
from lastgood.hosts import heartbeat, readiness
from lastgood.layers import base, reconcile
from lastgood.layers import desired as desired_state
from lastgood.layers.receipts import Receipt
from lastgood.release import convergence
from lastgood.service import schema
from lastgood.settings import Settings
from lastgood.system import clock
from lastgood.system import processes as system_processes

QUIET = {
    "OMP_NUM_THREADS": "1",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_ALLOW_PICKLE_DESERIALIZATION": "false",
    "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
    "DO_NOT_TRACK": "1",
    "DVC_NO_ANALYTICS": "1",
    "GX_ANALYTICS_ENABLED": "false",
    "DAGSTER_DISABLE_TELEMETRY": "1",
}
"""None of the started programs phones home, and one thread per process is faster on a busy machine."""

READY_S = 120.0
"""Dagster's page takes 11 s to come up on an idle machine and a minute on a busy one."""

Say = Callable[[str], None]


def environment(settings: Settings) -> dict[str, str]:
    """The environment of everything that is started for *settings*."""
    return {**os.environ, **QUIET, "LASTGOOD_PROJECT": str(settings.project), "LASTGOOD_HOME": str(settings.home)}


BRINGS_UP_S = 60.0
"""The most seconds that `up` waits for work in progress, such as a worker that is still loading."""
WORTH_SAYING_S = 2.0
"""Seconds of waiting after which the reason is reported."""
LEAVES_S = 2.0
"""Seconds that a controller which keeps running for others has to release a service that is taken down."""


def known_services(settings: Settings) -> list[str]:
    """The services of the project folder, by name."""
    return sorted(file.parent.name for file in settings.services.glob(f"*/{schema.FILE}"))


def known_here(settings: Settings) -> list[str]:
    """The services of the project folder, and those brought up on this machine before, by name."""
    ran = [folder.name for folder in (settings.home / "run").glob("*") if folder.is_dir()]
    return sorted({*known_services(settings), *ran})


def check_names(settings: Settings, names: Sequence[str], *, among: Sequence[str]) -> None:
    """Raise NotFound, listing what exists, if one of *names* is not *among* the services here, or if there are none."""
    if not names:
        raise errors.NotFound(
            f"no services in {settings.services} (home {settings.home}); change to the project's folder with 'cd', "
            "set LASTGOOD_PROJECT, or create services/NAME/service.yaml"
        )
    unknown = [name for name in names if name not in among]
    if unknown:
        raise errors.NotFound(
            f"no service {', '.join(map(repr, unknown))} in {settings.services}; services here: {', '.join(among) or 'none'}; name one of them"
        )


def up(settings: Settings, *, names: list[str], say: Say) -> list[Receipt]:
    """Start what is not running: the proxy and workers of each service, then the controller. Returns the layers' receipts.

    A service that cannot be brought up does not keep the others down; what this call has started of it is stopped again, and the
    controller is started only if there is a service for it to look after. If the ledger is missing, the proxies still start
    from their last good configuration. Errors are raised at the end.
    """
    receipts: list[Receipt] = []
    troubles: list[errors.LastgoodError] = []
    broken = _check_configurations(settings, names, say=say)
    parked = {name for name in names if settings.parked(name).exists()}
    for name in names:
        settings.parked(name).unlink(missing_ok=True)
    brought: list[str] = []
    _end_frozen_controller(settings, say=say)
    try:
        with release.open_context(settings) as ctx:
            skew_s = clock.accept(settings.home)
            if skew_s:
                say(f"  {'clock':<15} accepted   it was set by {skew_s:+.0f} s; lastgood uses it from now on")
            for name in names:
                # One service that cannot be brought up does not keep the others down.
                ran = _runs(settings, name)
                try:
                    receipts += [_report(say, receipt) for receipt in _newest(ctx, name)]
                    brought.append(name)
                except errors.LastgoodError as error:
                    say(f"  ! {name}: {error}")
                    troubles.append(error)
                    brought += [name] if ran else []
                    if not ran:
                        _undo(settings, name, parked=name in parked)
    except errors.LastgoodError as error:
        say(f"  ! {error}")
        _serve_last_good(settings, names=names, say=say)
        raise
    if brought or any(_is_up(settings, name) for name in known_services(settings) if name not in names):
        record = start_controller(settings)
        say(f"  {'controller':<15} running    pid {record.pid}")
    if troubles or broken:
        raise [*troubles, *broken][0]
    return receipts


def _check_configurations(settings: Settings, names: Sequence[str], *, say: Say) -> list[errors.LastgoodError]:
    """The errors in the service.yaml of *names*, each also reported; raised where no frozen configuration can be used instead.

    A running service uses the configuration frozen in its bundle, and continues to do so when the file is broken.
    """
    broken: list[errors.LastgoodError] = []
    for name in names:
        try:
            schema.load(settings.services / name)
        except errors.LastgoodError as error:
            if not _released(settings, name):
                raise
            say(f"  ! {name} is served with the configuration frozen in its bundle; the project's file is invalid: {error}")
            broken.append(error)
    return broken


def _released(settings: Settings, name: str) -> bool:
    try:
        with release.open_context(settings, read_only=True) as ctx:
            return ctx.ledger.state(name).stable is not None
    except errors.NotFound:
        return False
    except errors.LastgoodError:
        return True  # the ledger does not answer: the proxy then serves what it served last


def _runs(settings: Settings, name: str) -> bool:
    """Whether any process of *name* is running on this machine."""
    folders = (settings.envoy(name), settings.run(name))
    return any(system_processes.running(folder) for folder in folders if folder.is_dir())


def _undo(settings: Settings, name: str, *, parked: bool) -> None:
    """Stop what was started of a service that could not be brought up, which restores its earlier state."""
    _shut_down(settings, name, say=lambda _: None)
    if parked:
        settings.parked(name).parent.mkdir(parents=True, exist_ok=True)
        settings.parked(name).touch()


def _shut_down(settings: Settings, name: str, *, say: Say) -> None:
    """Stop the layers of *name* that are processes on this machine, traffic first; reports what each of them cut off."""
    layers = reconcile.build(settings, name)
    for layer in [layers[kind] for kind in ("traffic", "infrastructure") if kind in layers]:
        with _told_if_long(say, f"  {name} {layer.name}: waiting for requests in flight to be answered; press Ctrl-C to stop waiting"):
            cut = layer.shut_down()
        layer.close()
        say(f"  {name + ' ' + layer.name:<15} stopped{'    ! ' + cut if cut else ''}")


def _end_frozen_controller(settings: Settings, *, say: Say) -> None:
    """End a frozen controller before the ledger is opened: it may hold the ledger's lock."""
    life = heartbeat.controller_health(settings)
    if life is None or not life.frozen:
        return
    with system_processes.locked(settings.home / "run" / "controller.lock", wait_s=10.0):
        _end(life)
    say(f"  {'controller':<15} replaced   pid {life.record.pid} was {life.trouble.partition(';')[0]}")


def _end(frozen: heartbeat.ControllerHealth) -> None:
    """Safe at any moment: a commit that it was about to make is fenced by its lease."""
    system_processes.stop(frozen.record, grace_s=0.0 if frozen.stopped else 2.0)


def start_controller(settings: Settings) -> system_processes.Record:
    """The running controller; started if there is none, or to replace one that is frozen. Safe to call from several commands at once."""
    folder = settings.home / "run"
    with system_processes.locked(folder / "controller.lock", wait_s=10.0):
        running = heartbeat.controller_health(settings)
        if running is not None and not running.frozen:
            return running.record
        if running is not None:
            _end(running)
        argv = [sys.executable, "-m", "lastgood.controller"]
        return system_processes.start(
            argv, record=folder / "controller.json", log=settings.home / "logs" / "controller.log", env=environment(settings)
        )


def down(settings: Settings, *, names: list[str], keep_serving: bool, say: Say) -> None:
    """Stop the proxies and workers of *names*, unless *keep_serving*; also the controller and pages if no other service is up."""
    others = [name for name in known_services(settings) if name not in names and _is_up(settings, name)]
    for name in ("controller", "dagster", "mlflow") if not others else ():
        record = system_processes.find_running(settings.home / "run" / f"{name}.json")
        if record is not None:
            system_processes.stop(record, grace_s=10.0)
            say(f"  {name:<15} stopped    pid {record.pid}")
    if keep_serving:
        return
    for service in names:
        settings.parked(service).parent.mkdir(parents=True, exist_ok=True)
        settings.parked(service).touch()
    if others:
        time.sleep(LEAVES_S)
    for service in names:
        _shut_down(settings, service, say=say)
        _say_gone(settings, service)


@contextlib.contextmanager
def _told_if_long(say: Say, text: str) -> Iterator[None]:
    """Call *say* with *text* if the block takes long."""
    timer = threading.Timer(WORTH_SAYING_S, say, [text])
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()


def _say_gone(settings: Settings, service: str) -> None:
    """Report that this host has no workers any more, so that nobody waits for its silence to time out. Creates nothing."""
    with contextlib.suppress(errors.LastgoodError), ledgers.connect(settings.ledger_url) as book:
        if any(row.host == readiness.host(settings) for row in book.readiness(service)):
            book.report_readiness(service, host=readiness.host(settings), seen={}, now=clock.now())


def _is_up(settings: Settings, service: str) -> bool:
    """Whether *service* was brought up on this machine and not taken down since."""
    return settings.run(service).is_dir() and not settings.parked(service).exists()


def check_pages(settings: Settings, *, dagster_port: int, mlflow_port: int) -> None:
    """Raise UsageError if a page that is not running could not be opened: its program is missing or its port is taken."""
    if dagster_port == mlflow_port:
        raise errors.UsageError(f"both web pages would use port {dagster_port}; choose another port with --dagster-port or --mlflow-port")
    for name, port in (("dagster", dagster_port), ("mlflow", mlflow_port)):
        _script(name)
        if system_processes.find_running(settings.home / "run" / f"{name}.json") is None:
            _check_port_free(port, name)


def open_pages(settings: Settings, *, dagster_port: int, mlflow_port: int, say: Say) -> dict[str, str]:
    """Start the Dagster and MLflow pages on loopback; returns their addresses once they respond."""
    home = settings.project
    dagster = [_script("dagster"), "dev", "-w", "workspace.yaml", "-h", "127.0.0.1", "-p", str(dagster_port)]
    mlflow = [
        _script("mlflow"),
        *("server", "--host", "127.0.0.1", "--port", str(mlflow_port), "--workers", "1"),
        *("--backend-store-uri", settings.tracking_uri, "--default-artifact-root", str(settings.home / "mlartifacts")),
    ]
    env = {**environment(settings), "DAGSTER_HOME": os.environ.get("DAGSTER_HOME", str(home))}
    os.chdir(home)
    check_pages(settings, dagster_port=dagster_port, mlflow_port=mlflow_port)
    addresses = {}
    for name, argv, port in (("dagster", dagster, dagster_port), ("mlflow", mlflow, mlflow_port)):
        record = settings.home / "run" / f"{name}.json"
        if system_processes.find_running(record) is None:
            if name == "dagster":
                _make_dagster_tables(argv[0], env)
            system_processes.start(argv, record=record, log=settings.home / "logs" / f"{name}.log", env=env)
        addresses[name] = f"http://127.0.0.1:{port}"
    for name, address in addresses.items():
        _wait_for_port(int(address.rpartition(":")[2]), name=name, log=settings.home / "logs" / f"{name}.log")
        say(f"  {name:<15} open       {address}")
    return addresses


def _make_dagster_tables(script: str, env: Mapping[str, str]) -> None:
    """Once, before its processes start: several that find an empty home at the same time damage it permanently."""
    done = subprocess.run([script, "instance", "migrate"], env=dict(env), capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise errors.Unavailable(f"Dagster cannot prepare {env['DAGSTER_HOME']}: {done.stderr.strip()[-400:]}; correct its dagster.yaml")


def _newest(ctx: release.Context, name: str) -> list[Receipt]:
    """Bring *name* up as the ledger requires, again for each change that a running controller commits meanwhile."""
    receipts: list[Receipt] = []
    revision = -1
    while True:
        wanted = desired_state.read(ctx.ledger.state(name), ledger=ctx.ledger, store=ctx.store, settings=ctx.settings)
        if wanted.revision == revision:
            return receipts
        revision = wanted.revision
        receipts = list(_bring_up(ctx.settings, wanted))
        if all((receipt.observed_revision or 0) <= revision for receipt in receipts):
            return receipts


def _bring_up(settings: Settings, wanted: base.Desired) -> Iterator[Receipt]:
    layers = reconcile.build(settings, wanted.name)
    until = time.monotonic() + min(wanted.service.serving.ready_timeout_s, BRINGS_UP_S)
    for name in convergence.HERE:
        if name in layers:
            layers[name].start_up(wanted)
            receipt = reconcile.attempt(layers[name], wanted)
            while receipt.status == "lagging" and time.monotonic() < until:
                time.sleep(0.1)
                receipt = reconcile.attempt(layers[name], wanted)
            yield receipt
            layers[name].close()


def _serve_last_good(settings: Settings, *, names: list[str], say: Say) -> None:
    for name in names:
        with contextlib.suppress(errors.LastgoodError):
            layers = reconcile.build(settings, name)
            if "traffic" in layers:
                layers["traffic"].start_up(base.Desired(service=schema.load(settings.services / name), revision=0))
                say(f"  {name}: the proxy serves its last good configuration")


def _report(say: Say, receipt: Receipt) -> Receipt:
    say(f"  {receipt.layer:<15} {receipt.status:<10} {receipt.detail}".rstrip())
    return receipt


def _script(name: str) -> str:
    beside = Path(sys.executable).with_name(name)
    found = str(beside) if beside.exists() else shutil.which(name)
    if found is None:
        raise errors.UsageError(f"{name!r} is not installed; install the extra: pip install 'lastgood[{name}]'")
    return found


def _check_port_free(port: int, name: str) -> None:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError as error:
            raise errors.UsageError(f"port {port} for {name} is in use; choose another port with --{name}-port") from error


def _wait_for_port(port: int, *, name: str, log: Path) -> None:
    end = time.monotonic() + READY_S
    while time.monotonic() < end:
        with socket.socket() as probe:
            probe.settimeout(1.0)
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return
        time.sleep(0.2)
    raise errors.Unavailable(f"{name} did not answer on port {port} within {READY_S:g} s; read {log}")


def processes(settings: Settings) -> Mapping[str, int | None]:
    """The pids of the control plane, None for those that are not running."""
    names = ("controller", "dagster", "mlflow")
    found = {name: system_processes.find_running(settings.home / "run" / f"{name}.json") for name in names}
    return {name: record.pid if record else None for name, record in found.items()}
