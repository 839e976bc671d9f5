"""Whether a bundle can be used, before it is registered: its own code loads it and answers, in a separate process.

What is accepted here is read later by workers and by the drift watch, possibly at 3 AM. The child (`lastgood.conformance.bundle`) does
what they do; this side starts it, waits, and imports nothing heavy.

What does not belong here: what is tried (`lastgood.conformance.bundle`), whether a bundle is good (gates).
"""

from __future__ import annotations

import dataclasses
import json
import os
import subprocess
import sys
from typing import Any

from lastgood import errors
from lastgood.bundle import manifest
from lastgood.settings import Settings

SKIPPED = "skipped on request: it is not known whether this bundle loads, or whether its reference, prompt and index can be read"
SLACK_S = 60.0
"""Added to the time a worker may take to become ready, because the build machine may be slow."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Tried:
    """`outcome` is "answered", "unknown" (inconclusive on this machine) or "skipped"; `notes` give the reason, or what was unusual."""

    outcome: str
    notes: tuple[str, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """The form stored in the provenance."""
        return {"outcome": self.outcome, "notes": list(self.notes)}


def run(settings: Settings, bundle: manifest.Bundle, *, timeout_s: float) -> Tried:
    """The result of trying *bundle*, whose parts and manifest are in the store. Raises NotAllowed, with the remedy, if it is not usable."""
    command = [sys.executable, "-m", "lastgood.conformance.bundle", "--service", bundle.service, "--bundle", bundle.id]
    environ = {**os.environ, "LASTGOOD_HOME": str(settings.home)}
    try:
        done = subprocess.run(  # our own interpreter and module
            command,
            cwd=settings.project,
            env=environ,
            capture_output=True,
            timeout=timeout_s + SLACK_S,
            check=False,
            stdin=subprocess.DEVNULL,
        )
    except subprocess.TimeoutExpired:
        return Tried(outcome="unknown", notes=(f"it did not answer its warm-up within {timeout_s + SLACK_S:.0f} s on this machine",))
    except OSError as error:
        return Tried(outcome="unknown", notes=(f"cannot start a process to try it: {error}",))
    return _read(done)


def _read(done: subprocess.CompletedProcess[bytes]) -> Tried:
    lines = done.stdout.decode("utf-8", "replace").splitlines()
    try:
        found = json.loads(lines[-1])
        outcome, notes = found["outcome"], tuple(found["notes"])
    except (ValueError, KeyError, TypeError, IndexError):
        last = (done.stderr.decode("utf-8", "replace").strip().splitlines() or ["no message"])[-1]
        return Tried(outcome="unknown", notes=(f"the process that tried it ended with {done.returncode}: {last[:300]}",))
    if outcome == "refused":
        raise errors.NotAllowed("; ".join(notes))
    return Tried(outcome=outcome, notes=notes)
