"""The files on the workers of one service: records of live ones and of ending ones, logs, readiness seen."""

from __future__ import annotations

import contextlib
import dataclasses
import logging
import os
from pathlib import Path

from lastgood.core import arms
from lastgood.layers import base
from lastgood.layers.infrastructure.local import drain
from lastgood.settings import Settings
from lastgood.system import processes

_logger = logging.getLogger("lastgood.layers.infrastructure.folder")
_LOG_BYTES = 5 * 1024 * 1024
_TAIL_BYTES = 8192


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Folder:
    """`<run>/workers/<label of its arm>.json` records a worker, `retired/` those asked to end, `<hex12>.ready` when one was seen ready."""

    workers: Path
    logs: Path

    @property
    def lock(self) -> Path:
        return self.workers / "lock"

    @property
    def notes(self) -> Path:
        return self.workers / "notes"

    @property
    def retired(self) -> Path:
        return self.workers / "retired"

    @property
    def sockets(self) -> Path:
        return self.workers / "s"

    def record(self, arm: str) -> Path:
        return self.workers / f"{arms.label(arm)}.json"

    def log(self, arm: str) -> Path:
        return self.logs / f"worker-{arms.label(arm)}.log"

    def _ready(self, arm: str) -> Path:
        return self.workers / f"{arms.label(arm)}.ready"

    def recorded(self) -> dict[str, processes.Record]:
        """Live workers by arm, from their records alone; ending ones are not included."""
        found = (processes.read(path) for path in sorted(self.workers.glob("*.json")))
        return {arm_of(record): record for record in found if record and "bundle" in record.facts and processes.alive(record)}

    def adopt(self) -> dict[str, processes.Record]:
        """Rewrite the lost records of live workers, and return these by arm."""
        leaving = {record.pid for record in self.leaving().values()}
        adopted = {}
        for path, record in processes.running(self.workers).items():
            if record.pid not in leaving and processes.read(path) != record:
                processes.write(path, record)
                adopted[arm_of(record)] = record
        return adopted

    def leaving(self) -> dict[Path, processes.Record]:
        """Live workers that were asked to end, by record path."""
        found = {path: processes.read(path) for path in self.retired.glob("*.json")}
        return {path: record for path, record in found.items() if record is not None and processes.alive(record)}

    def saw_ready(self, arm: str, *, now: float) -> None:
        """Record that the worker was ready at *now*; on a full disk nothing is recorded, and it counts as ready as before."""
        with contextlib.suppress(OSError):
            path = self._ready(arm)
            path.touch()
            os.utime(path, (now, now))

    def last_ready(self, arm: str) -> float:
        """When the worker was last seen ready, in Unix seconds; 0 if never."""
        try:
            return self._ready(arm).stat().st_mtime
        except OSError:
            return 0.0

    def retire(self, arm: str, record: processes.Record, *, now: float, patience_s: float, revision: int | None = None) -> None:
        """Ask the worker to end within *patience_s* seconds. From now on its arm has no worker for any reader.

        *revision* is the one that no longer needs it.
        """
        self.retired.mkdir(exist_ok=True)
        self.forget(arm)
        drain.forget(self.workers, record.pid)
        asked = dataclasses.replace(record, facts={**record.facts, "asked": now, "patience_s": patience_s, "left_at": revision})
        processes.write(self.retired / f"{arms.label(arm)}-{record.pid}.json", asked)
        processes.ask(record)

    def end(self, arm: str, record: processes.Record, *, now: float, revision: int) -> None:
        """Kill the worker without asking. If it was ever ready, the cut-off requests are recorded as an unknown number."""
        served = self.last_ready(arm) > 0
        self.forget(arm)
        if served:
            drain.forget(self.workers, record.pid)
            self.kill(dataclasses.replace(record, facts={**record.facts, "left_at": revision}), now=now)
        else:
            processes.stop(record, grace_s=0)

    def forget(self, arm: str) -> None:
        self.record(arm).unlink(missing_ok=True)
        self._ready(arm).unlink(missing_ok=True)

    def overdue(self, *, now: float) -> list[processes.Record]:
        """Live workers that were asked to end and whose time for it is over."""
        return [record for record in self.leaving().values() if drain.is_overdue(record, drain.left(self.workers, record), now=now)]

    def finish_retired(self, *, now: float) -> None:
        """Kill workers that take too long to end and record what that cut off; reap those that have ended."""
        for record in self.overdue(now=now):
            self.kill(record, now=now)
        for path in self.retired.glob("*.json"):
            ended = processes.read(path)
            if ended is not None and processes.alive(ended):
                continue
            if ended is not None:
                processes.reap(ended)
                drain.forget(self.workers, ended.pid)
            path.unlink(missing_ok=True)

    def kill(self, record: processes.Record, *, now: float) -> None:
        """End a worker whose time is over."""
        if processes.stop(record, grace_s=0):
            cut = drain.cut_off(self.workers, record, now=now)
            if cut is not None:
                _logger.warning("%s", drain.cut_off_sentence(cut))

    def clear(self) -> None:
        """Delete all records, when no worker is left."""
        for file in (
            self.notes,
            *self.sockets.glob("*"),
            *self.workers.glob("*.json"),
            *self.workers.glob("*.ready"),
            *self.retired.glob("*.json"),
        ):
            file.unlink(missing_ok=True)


def worker_folder(settings: Settings, service: str) -> Folder:
    """The folder of *service*; it may not exist yet."""
    return Folder(workers=settings.run(service) / "workers", logs=settings.logs(service))


def facts(arm: str, *, socket: Path) -> dict[str, str | int]:
    """The content of a worker's record apart from the process; the arm only if it differs from the bundle."""
    bundle_id = arms.bundle_of(arm)
    return {"bundle": bundle_id, **({} if arm == bundle_id else {"arm": arm}), "socket": str(socket)}


def arm_of(record: processes.Record) -> str:
    """The arm that the worker of *record* answers as."""
    return str(record.facts.get("arm", record.facts["bundle"]))


def endpoint(record: processes.Record) -> base.Endpoint:
    """Where the worker of *record* listens. One started by an earlier release has a port."""
    if "socket" in record.facts:
        return base.Endpoint(path=str(record.facts["socket"]))
    return base.Endpoint(host=str(record.facts["host"]), port=int(record.facts["port"]))


def last_error(log: Path, *, since: int) -> str:
    """The last line of *log* after byte *since* that mentions an error, else its last line; "" if there is none."""
    try:
        with log.open("rb") as file:
            size = file.seek(0, os.SEEK_END)
            file.seek(max(since if since <= size else 0, size - _TAIL_BYTES))
            text = file.read().decode("utf-8", "replace")
    except OSError:
        return ""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    telling = [line for line in lines if "error" in line.lower() or "exception" in line.lower()]
    return (telling or lines or [""])[-1][:500]


def turn_log(log: Path) -> int:
    """Where a new worker's output begins in *log*, in bytes; a log that grew too long is rotated first."""
    try:
        size = log.stat().st_size
        if size <= _LOG_BYTES:
            return size
        log.replace(log.with_suffix(".log.1"))
    except FileNotFoundError:
        pass
    return 0
