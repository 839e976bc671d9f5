"""Bounds for everything that grows as long as a service runs, whether or not anything is released.

    file                                    bound                                              by whom
    envoy/<s>/access.log, .1 to .3          64 MB each, a day each                             here
    envoy/<s>/ejections.log, envoy.log      8 MB, and as much rotated                          here
    logs/<s>/worker-*.log                   16 MB, and as much rotated; gone 30 days after     here
                                            its worker
    logs/{controller,dagster,mlflow}.log    16 MB, and as much rotated                         here
    pages/                                  the newest 2,000                                   here
    inference/<s>/                          serving.log_keep_days                              its writers (`serving.segments`)
    ledger: measurements                    controller.keep_measurements_days                  `controller.analysis_loop`
    drift/reports/<s>/                      the newest of each service                         `drift.evidently_report`
    index/                                  index.keep_days, index.keep_stable                 its layer
    run/<s>/, envoy/<s>/kept.json           one of each, written anew                          -
    ledger, audit/, incidents/, store/      grow by release, not by time, and are the history  -
    dagster/                                grows by run; Dagster removes ticks, not runs      a person: `dagster run wipe`

The controller sweeps every few seconds, and every worker occasionally, so that the proxy's log is bounded even while the
controller is dead. If no worker runs either, the proxy writes a line for each request that it refuses, and nothing rotates the log.

What does not belong here: how Envoy's files are rotated (`layers.traffic.envoy.logs`).
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterable

from lastgood import errors
from lastgood.layers.infrastructure.local import worker_files
from lastgood.layers.traffic.envoy import files as envoy_files
from lastgood.layers.traffic.envoy import logs as envoy_logs
from lastgood.settings import Settings
from lastgood.system import clock as system_clock
from lastgood.system import processes

log = logging.getLogger("lastgood.housekeeping")

LOG_BYTES = 16 * 1024 * 1024
LEFT_S = 30 * 86_400.0
"""Age of a worker's log after its last line at which it is deleted, if no such worker runs."""
PAGES = 2_000
EVERY_S = 10.0
WORKERS_EVERY_S = 60.0


def sweep(settings: Settings, service: str, *, now: float) -> None:
    """Bound what *service* writes, at Unix time *now*. Costs a few file checks; safe for many processes at once. Raises OSError.

    Anything locked by a release at the moment is left for the next time. Raises LayerError if the proxy cannot be notified.
    """
    files = envoy_files.files_of_service(settings, service)
    if files.bootstrap.exists():
        try:
            with processes.locked(files.lock, wait_s=0.0):
                envoy_logs.put_aside(files, now=now)
        except errors.Unavailable as error:
            log.debug("%s: %s", service, error)
    workers = worker_files.worker_folder(settings, service)
    for file in workers.logs.glob("worker-*.log"):
        envoy_logs.cut(file, most=LOG_BYTES)
        label = file.stem.removeprefix("worker-")
        if now - system_clock.of_machine(file.stat().st_mtime) > LEFT_S and not (workers.workers / f"{label}.json").exists():
            for left in (file, file.with_name(file.name + ".1")):
                left.unlink(missing_ok=True)


def sweep_home(settings: Settings) -> None:
    """Bound what belongs to no service. Raises OSError."""
    for name in ("controller", "dagster", "mlflow"):
        envoy_logs.cut(settings.home / "logs" / f"{name}.log", most=LOG_BYTES)
    pages = sorted(settings.pages.glob("*.json"), key=lambda file: file.stat().st_mtime)
    for page in pages[:-PAGES]:
        page.unlink(missing_ok=True)


class Sweeper(threading.Thread):
    """Sweeps every *every_s* seconds until the process or `end` ends it. A problem is logged once, and the next sweep tries again."""

    def __init__(
        self, settings: Settings, services: Callable[[], Iterable[str]], *, every_s: float, clock: Callable[[], float] = system_clock.now
    ) -> None:
        super().__init__(name="housekeeping", daemon=True)
        self._settings = settings
        self._services = services
        self._every_s = every_s
        self._clock = clock
        self._ended = threading.Event()
        self._said: dict[str, str] = {}

    def end(self) -> None:
        """Stop at the next iteration."""
        self._ended.set()

    def run(self) -> None:
        while not self._ended.wait(self._every_s):
            self.turn()

    def turn(self) -> None:
        """One sweep of everything."""
        for service in tuple(self._services()):
            self._try(service, lambda service=service: sweep(self._settings, service, now=self._clock()))  # type: ignore[misc]
        self._try("home", lambda: sweep_home(self._settings))

    def _try(self, what: str, do: Callable[[], None]) -> None:
        trouble = ""
        try:
            do()
        except (OSError, errors.LastgoodError) as error:
            trouble = str(error)
        if trouble and trouble != self._said.get(what):
            log.warning("%s: cannot limit the size of logs: %s; correct the cause before the disk fills up", what, trouble)
        self._said[what] = trouble
