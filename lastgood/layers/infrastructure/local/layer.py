"""Workers as plain processes on this machine: one per bundle, ready before it is needed, kept as long as it may be needed.

Each call inspects what runs and performs the next step; nothing is held in memory, so the controller and a command may both
apply, and either may die. Workers outlive the process that started them.

    wanted, not running      start it, detached (at once after the first crash, then with back-off)
    wanted, never ready      after `ready_timeout_s`: stop it, count a failed attempt, report the log's last error
    wrong bundle answers     stop it, count a failed attempt
    no longer wanted         ask it to end after `drain_s`, but never the last ready worker while stable is not ready
    asked to end             give it the time that its requests may take (`drain`), then kill it

What does not belong here: which bundle should serve (`core`), sending it requests (`layers.traffic`).
"""

from __future__ import annotations

import dataclasses
import os
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from lastgood import errors
from lastgood.bundle import manifest
from lastgood.core import arms
from lastgood.layers import base
from lastgood.layers.infrastructure.local import drain, readiness, warm_ups, worker_files
from lastgood.layers.infrastructure.local import reconcile_pass as step
from lastgood.layers.infrastructure.local import worker_state as notes_
from lastgood.service import schema
from lastgood.settings import Settings
from lastgood.system import clock as system_clock
from lastgood.system import processes

LOCK_WAIT_S = 5.0
_LOOK_EVERY_S = 0.05


def build(settings: Settings, service: str) -> Workers:
    """The workers layer of *service* on this machine."""
    return Workers(settings, service)


def stop_all(settings: Settings, service: str, *, grace_s: float | None = None) -> int:
    """End every worker of *service*, gracefully first; returns how many there were. Used by `lastgood down`."""
    return Workers(settings, service).stop_all(grace_s=grace_s)


class Workers(base.Processes):
    """See the module. *drain_s* and *patience_s* are in seconds; *clock* gives Unix time in seconds."""

    name = "infrastructure"

    def __init__(
        self,
        settings: Settings,
        service: str,
        *,
        command: step.Command | None = None,
        drain_s: float = 10.0,
        patience_s: float = 5.0,
        clock: Callable[[], float] = system_clock.now,
    ) -> None:
        self._settings = settings
        self._service = manifest.check_service_name(service)
        self._patience_s = patience_s
        self._clock = clock
        self._where = worker_files.worker_folder(settings, service)
        self._rules = step.Rules(
            command=command or self._worker_command,
            environment=self._environment(),
            drain_s=drain_s,
            backoff_max_s=settings.controller.backoff_max_s,
        )

    # --- observing -----------------------------------------------------------------------------------------

    def endpoints(self) -> Mapping[str, tuple[base.Endpoint, ...]]:
        """Workers that have just reported ready for their bundle. Takes half a second at most."""
        live = self._where.recorded()
        answers = readiness.check_workers(live)
        return {arm: (worker_files.endpoint(record),) for arm, record in live.items() if answers[arm].ready(arms.bundle_of(arm))}

    def troubles(self) -> Mapping[str, tuple[int, str]]:
        """See `base.Processes`; empty where the notes cannot be read."""
        try:
            notes = notes_.load(self._where.notes)
        except OSError:
            return {}
        return {arm: (note.failures, note.trouble) for arm, note in notes.bundles.items() if note.failures}

    def observe(self) -> base.Observed:
        """The revision last taken over, and the state of each arm.

        Per arm: pid, socket (port for a worker of an earlier release), ready, restarts, failures, oom_kills; uptime and memory of the
        live ones. Records when a worker was seen ready, so that a slow moment later is not mistaken for a start that never completed.
        """
        try:
            notes = notes_.load(self._where.notes)
        except OSError as error:
            raise base.LayerError(f"cannot read {self._where.notes}: {error}; check the disk under {self._settings.home}") from error
        live = self._where.recorded()
        answers = readiness.check_workers(live)
        for arm in live:
            if answers[arm].ready(arms.bundle_of(arm)):
                self._where.saw_ready(arm, now=self._clock())
        warm_ups.keep(self._where.workers.parent, {arms.bundle_of(arm): answer.warm_up_s for arm, answer in answers.items()})
        known = sorted({*live, *notes.bundles})
        facts = {
            "workers": {arm: self._facts(arm, live.get(arm), notes, answers.get(arm)) for arm in known},
            "to_kill": len(self._where.overdue(now=self._clock())),
            "leaving": drain.leaving(self._where.workers, self._where.leaving()),
            "cut_off": drain.cuts(self._where.workers),
            "uptime_s": {arm: processes.age_s(record) for arm, record in live.items()},
            "rss_bytes": {arm: processes.rss_bytes(record) for arm, record in live.items()},
        }
        return base.Observed(revision=notes.revision, facts=facts)

    def _facts(
        self, arm: str, record: processes.Record | None, notes: notes_.Notes, answer: readiness.ReadyzAnswer | None
    ) -> dict[str, Any]:
        note = notes.bundles.get(arm, notes_.Note())
        return {
            "pid": record.pid if record else None,
            "socket": record.facts.get("socket") if record else None,
            "port": record.facts.get("port") if record else None,
            "ready": answer is not None and answer.ready(arms.bundle_of(arm)),
            "in_flight": answer.in_flight if answer else None,
            "warm_up_s": answer.warm_up_s if answer else None,
            "timeout_s": answer.timeout_s if answer else None,
            "repeated_ids": answer.repeated_ids if answer else None,
            "unclear_labels": answer.unclear_labels if answer else None,
            "restarts": note.restarts,
            "failures": note.failures,
            "oom_kills": note.oom_kills,
            "last_exit": note.last_exit,
            "leaving": note.left is not None,
            "drained": note.left is not None and self._clock() - note.left >= self._rules.drain_s,
        }

    def verify(self, desired: base.Desired, observed: base.Observed) -> bool | None:
        """True if every arm that must be warm is ready and no worker is waiting to be stopped."""
        workers = observed.facts.get("workers")
        if workers is None:
            return None
        if observed.revision != desired.revision or observed.facts.get("to_kill"):
            return False
        if not all(workers.get(arm, {}).get("ready") for arm in desired.warm):
            return False
        others = [facts for arm, facts in workers.items() if arm not in desired.warm]
        return not any(facts["drained"] or not facts["leaving"] for facts in others)

    # --- acting --------------------------------------------------------------------------------------------

    def apply(self, desired: base.Desired) -> None:
        """Perform the steps that are due until every wanted worker is ready, for at most *patience_s* seconds.

        Returns without error while workers are still loading within their time. Raises LayerError naming each worker whose last attempt
        failed. A revision older than the one last taken over changes nothing.
        """
        end = time.monotonic() + self._patience_s
        thorough = True
        while True:
            try:
                with processes.locked(self._where.lock, wait_s=LOCK_WAIT_S):
                    waiting = step.Step(self._where, self._rules, desired, now=self._clock()).run(thorough=thorough)
            except (errors.Unavailable, OSError) as error:
                raise base.LayerError(f"cannot manage the workers of {self._service!r}: {error}; retrying") from error
            thorough = False
            left_s = end - time.monotonic()
            if left_s <= 0 or all(note.begun is None and note.not_before > self._clock() + left_s for note in waiting.values()):
                break
            time.sleep(_LOOK_EVERY_S)
        self._complain(desired, {arm: note for arm, note in waiting.items() if note.failures})

    def _complain(self, desired: base.Desired, failed: Mapping[str, notes_.Note]) -> None:
        if not failed:
            return
        named = {arm: alias for alias, arm in reversed(desired.aliases.items())}
        told = [
            f"worker of {named.get(arm, 'the control arm')} {manifest.short(arm)!r} {note.trouble} (failed {note.failures} times, retrying with back-off)"
            for arm, note in failed.items()
        ]
        raise base.LayerError(f"{'; '.join(told)}; see {self._settings.logs(self._service)}")

    def shut_down(self) -> str:
        """End every worker, for `lastgood down`, and report the requests that were cut off."""
        before = drain.cuts(self._where.workers)
        self.stop_all()
        return "; ".join(drain.cut_off_sentence(cut) for cut in drain.cuts(self._where.workers) if cut not in before)

    def stop_all(self, *, grace_s: float | None = None) -> int:
        """End every worker and delete the notes; returns how many there were. Raises LayerError if the lock is held.

        Each may answer its current requests for as long as they may take; or for *grace_s* seconds, if given.
        """
        try:
            with processes.locked(self._where.lock, wait_s=LOCK_WAIT_S):
                count = self._ask_all(grace_s)
                while leaving := self._where.leaving():
                    for record in leaving.values():
                        if drain.is_overdue(record, drain.left(self._where.workers, record), now=self._clock()):
                            self._where.kill(record, now=self._clock())
                    time.sleep(_LOOK_EVERY_S)
                self._where.finish_retired(now=self._clock())
                self._where.clear()
        except (errors.Unavailable, OSError) as error:
            raise base.LayerError(f"cannot stop the workers of {self._service!r}: {error}; run it again") from error
        return count

    def _ask_all(self, grace_s: float | None) -> int:
        """Ask every worker to end; returns how many there are, including draining workers."""
        live = processes.running(self._where.workers)
        leaving = self._where.leaving()
        on_their_way = {record.pid for record in leaving.values()}
        live = {path: record for path, record in live.items() if record.pid not in on_their_way and "bundle" in record.facts}
        answers = readiness.check_all({path: worker_files.endpoint(record) for path, record in live.items()})
        for path, record in live.items():
            patience_s = drain.patience_s(answers[path].timeout_s, self._timeout_s()) if grace_s is None else grace_s
            self._where.retire(worker_files.arm_of(record), record, now=self._clock(), patience_s=patience_s)
        for path, record in leaving.items() if grace_s is not None else ():
            processes.write(path, dataclasses.replace(record, facts={**record.facts, "asked": self._clock(), "patience_s": grace_s}))
        return len(live) + len(leaving)

    def _timeout_s(self) -> float | None:
        """Seconds that a request may take by the project's own settings; None if they cannot be read."""
        try:
            return schema.load(self._settings.services / self._service).traffic.timeout_s
        except (errors.LastgoodError, OSError):
            return None

    def _worker_command(self, digest: str, socket: Path) -> list[str]:
        return [
            *(sys.executable, "-m", "lastgood.serving.worker", "--service", self._service),
            *("--bundle", digest, "--socket", str(socket)),
        ]

    def _environment(self) -> dict[str, str]:
        """Our environment, with the home and the project pinned, one computing thread per worker and pickle disabled everywhere."""
        return {
            "OMP_NUM_THREADS": "1",
            **os.environ,
            "LASTGOOD_PROJECT": str(self._settings.project),
            "LASTGOOD_HOME": str(self._settings.home),
            "MLFLOW_ALLOW_PICKLE_DESERIALIZATION": "false",
        }
