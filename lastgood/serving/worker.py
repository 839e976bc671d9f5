"""The process that serves one bundle: `python -m lastgood.serving.worker --service S --bundle DIGEST --socket PATH`.

Everything comes from the store, by digest, and is verified byte by byte before any of it is loaded: the manifest
itself is stored under the bundle's id, so neither the ledger nor the project's `services/` folder is needed. A bundle
that does not verify ends the process before it listens.
"""

from __future__ import annotations

import argparse
import datetime
import json
import logging
import math
import os
import signal
import socket
import sys
from collections.abc import Sequence
from pathlib import Path
from types import FrameType

import uvicorn

from lastgood import errors, runtime_api
from lastgood import settings as settings_
from lastgood.bundle import environment
from lastgood.bundle import manifest as bundle_manifest
from lastgood.bundle import store as bundle_store
from lastgood.layers import answer_store, housekeeping
from lastgood.layers.infrastructure.local import in_flight
from lastgood.service import frozen as frozen_service
from lastgood.service import timeouts
from lastgood.serving import app, feedback, inference_log, runtime, segments
from lastgood.settings import Settings
from lastgood.system import clock, permissions, plain

_logger = logging.getLogger("lastgood.worker")

OUT_OF_MEMORY = 137
"""Exit status of a worker that ran out of memory without being killed; the infrastructure layer counts it as a kill."""


def load(settings: Settings, *, service: str, bundle: str, now: float) -> app.Loaded:
    """Verify *bundle* (full digest) and load it. Raises NotFound, Damaged or UsageError; a team's runtime may raise anything."""
    store = bundle_store.Store(settings.store)
    found = read_manifest(store, bundle)
    if found.service != service:
        raise errors.UsageError(
            f"bundle {bundle!r} belongs to service {found.service!r}, not {service!r}; name the service it was built for"
        )
    store.verify_bundle(found, deep=True)
    frozen = frozen_service.read(found, store=store)
    if frozen is None or frozen.service != service:
        raise errors.Damaged(f"the config part of bundle {bundle!r} does not describe {service!r}; build the bundle again")
    parts = {name: store.path(part.digest) for name, part in found.parts.items()}
    cls = runtime.load_class(parts["config"], entry=frozen.runtime, digest=found.parts["config"].digest)
    try:
        runs = cls.load(parts, frozen.options)
    except Exception as error:  # a team's runtime may raise anything
        if lacks := runtime_api.missing(error):
            raise errors.Damaged(f"the code of bundle {bundle!r} cannot run here: {lacks}") from error
        raise
    return app.Loaded(
        bundle=found,
        service=frozen,
        runtime=runs,
        started=datetime.datetime.fromtimestamp(now, datetime.UTC).isoformat(timespec="milliseconds"),
        notes=tuple(environment_notes(parts.get("environment"), settings.project / "requirements.lock")),
    )


def read_manifest(store: bundle_store.Store, bundle: str) -> bundle_manifest.Bundle:
    """The bundle whose manifest is stored under its own id. Raises NotFound or Damaged."""
    store.verify(bundle, deep=True)
    try:
        manifest = json.loads(store.path(bundle).read_bytes(), parse_int=plain.number)
    except (ValueError, OSError) as error:
        raise errors.Damaged(f"{bundle} is stored but is not a manifest: {error}; name a bundle, not a part") from error
    found = bundle_manifest.from_manifest(manifest)
    if found.id != bundle:
        raise errors.Damaged(f"the manifest stored as {bundle} describes {found.id}; build or import the bundle again")
    return found


def environment_notes(recorded: Path | None, lock: Path) -> list[str]:
    """Differences between the running environment and the recorded one, as text; they are reported, not refused."""
    if recorded is None:
        return ["the bundle records no environment"]
    try:
        return environment.differences(environment.read(recorded), environment.describe(lock))
    except errors.LastgoodError as error:
        return [f"cannot compare environments: {error}"]


def logs(settings: Settings, loaded: app.Loaded) -> tuple[segments.SegmentLog, segments.SegmentLog]:
    """The predictions log and the feedback log of the service, not yet started."""
    serving, folder = loaded.service.serving, settings.inference(loaded.service.service)

    def log(name: str, to_table: segments.ToTable) -> segments.SegmentLog:
        return segments.SegmentLog(
            folder / name,
            to_table=to_table,
            name=bundle_manifest.short(loaded.bundle.id),
            flush_s=serving.log_flush_s,
            segment_rows=serving.log_segment_rows,
            keep_days=serving.log_keep_days,
        )

    predictions = log(inference_log.PREDICTIONS, inference_log.table_maker(loaded.runtime.Request))
    return predictions, log(inference_log.FEEDBACK, feedback.to_table)


def answers(settings: Settings, loaded: app.Loaded) -> answer_store.Cache | None:
    """The answer cache, if the service wants one. Raises UsageError for an invalid `cache.url`."""
    serving = loaded.service.serving
    if serving.cache_s <= 0:
        return None
    return answer_store.connect(
        settings, service=loaded.service.service, bundle=loaded.bundle.id, ttl_s=serving.cache_s, entries=serving.cache_rows
    )


class _Server(uvicorn.Server):
    """Uvicorn, extended to report what it has left to answer once it is asked to stop."""

    def __init__(self, config: uvicorn.Config, *, counted: in_flight.InFlight, file: Path) -> None:
        super().__init__(config)
        self._counted, self._file = counted, file

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        self._counted.write_to(self._file)
        super().handle_exit(sig, frame)


def serve(settings: Settings, loaded: app.Loaded, listener: socket.socket) -> int:
    """Answer on *listener* until SIGTERM, SIGINT or out of memory, finish what is in flight, write the logs. Returns the exit code."""
    predictions_log, feedback_log = logs(settings, loaded)
    exit_code = 0
    counted = in_flight.InFlight()

    def give_up(code: int) -> None:
        nonlocal exit_code
        exit_code = code
        # A worker that ends by itself is to be replaced: its successor waits for it no longer than a request may take.
        server.config.timeout_graceful_shutdown = math.ceil(loaded.service.traffic.timeout_s) + 1
        server.should_exit = True

    application = app.create(
        loaded,
        predictions_log=predictions_log,
        feedback_log=feedback_log,
        answers=answers(settings, loaded),
        counted=counted,
        on_failed_warm_up=lambda: give_up(1),
        on_out_of_memory=lambda: give_up(OUT_OF_MEMORY),
    )
    server = _Server(
        uvicorn.Config(
            application,
            loop="uvloop",
            http="httptools",
            lifespan="on",
            access_log=False,
            log_level="warning",
            server_header=False,
            # Longer than a proxy keeps an idle connection (an hour), so that we never close one just as it is used.
            timeout_keep_alive=3900,
            # The proxy may wait for an answer as long as another bundle's settings allow; the supervisor of the workers ends them sooner.
            timeout_graceful_shutdown=math.ceil(timeouts.LONGEST_S) + 1,
        ),
        counted=counted,
        file=in_flight.file_of(settings.run(loaded.service.service), os.getpid()),
    )
    # uvicorn raises the signal again when it has shut down; a graceful end is not a failure.
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: None)
    # The controller does it more often; but while it is dead, the proxy's log must not fill the disk.
    housekeeping.Sweeper(settings, lambda: (loaded.service.service,), every_s=housekeeping.WORKERS_EVERY_S).start()
    server.run(sockets=[listener])
    return exit_code


def listen(host: str, port: int) -> socket.socket:
    """A bound socket that does not listen yet, so nobody connects before the bundle is loaded. Raises Unavailable."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((host, port))
    except OSError as error:
        listener.close()
        raise errors.Unavailable(
            f"cannot listen on {host}:{port}: {error.strerror}; choose another port, or stop the program that uses it"
        ) from error
    return listener


def listen_at(path: Path) -> socket.socket:
    """A bound Unix socket accessible only to our user, replacing one left by an earlier worker. Raises Unavailable."""
    staged = path.with_name(f".{os.getpid()}")
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    before = os.umask(0o177)
    try:
        staged.unlink(missing_ok=True)
        listener.bind(str(staged))
        staged.replace(path)  # a worker that is shutting down continues with the requests that it has
    except OSError as error:
        listener.close()
        raise errors.Unavailable(f"cannot listen on {path}: {error}; correct the folder's owner or mode") from error
    finally:
        os.umask(before)
    return listener


def main(argv: Sequence[str] | None = None) -> int:
    """Load, then serve; errors go to stderr and give their exit code."""
    parser = argparse.ArgumentParser(prog="python -m lastgood.serving.worker", description="Serve one bundle.")
    parser.add_argument("--service", required=True)
    parser.add_argument("--bundle", required=True, help="full digest, sha256:…")
    place = parser.add_mutually_exclusive_group(required=True)
    place.add_argument("--socket", type=Path, help="path of a Unix socket, which only this user can reach")
    place.add_argument("--port", type=int, help="port, which every user of this machine can reach")
    parser.add_argument("--host", default="127.0.0.1")
    call = parser.parse_args(argv)
    os.umask(permissions.UMASK)
    logging.basicConfig(level=logging.WARNING, stream=sys.stderr, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    try:
        listener = listen(call.host, call.port) if call.socket is None else listen_at(call.socket)
        settings = settings_.load()
        clock.anchor(settings.home)
        loaded = load(settings, service=call.service, bundle=call.bundle, now=clock.now())
    except errors.LastgoodError as error:
        _logger.error("worker of %r cannot start: %s", call.service, error)  # noqa: TRY400  (the message says all; a traceback would hide it)
        return error.exit_code
    except MemoryError:
        _logger.exception("worker of %r cannot start: it ran out of memory", call.service)
        return OUT_OF_MEMORY
    for note in loaded.notes:
        _logger.warning("bundle %s: %s", call.bundle, note)
    return serve(settings, loaded, listener)


if __name__ == "__main__":
    sys.exit(main())
