"""Each layer's latest answer, kept as one small JSON file per layer so that every command can show it.

These files are observations, not the source of truth: losing them costs a resync. The controller writes them while it
reconciles; a command that converges a layer itself writes them too.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from lastgood.core import arms
from lastgood.system import files

ReceiptStatus = Literal["converged", "lagging", "failed", "unknown"]


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Receipt:
    """One layer's answer: does it agree with revision `desired_revision`, and how long did that take?

    `converged` agrees, `lagging` differs or is in progress, `failed` raised, `unknown` could not be determined.
    `ms` is the time of the last apply in milliseconds; `at` is Unix time in seconds.
    """

    layer: str
    status: ReceiptStatus
    desired_revision: int
    observed_revision: int | None
    ms: float
    at: float
    detail: str = ""
    facts: Mapping[str, Any] = dataclasses.field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        return dataclasses.asdict(self)

    def covers(self, revision: int) -> bool:
        """True if the layer agreed with *revision* or a later one."""
        return self.status == "converged" and self.desired_revision >= revision


def write(folder: Path, receipt: Receipt) -> None:
    """Store *receipt* as the newest of its layer; atomic, and silent on a full disk: the layer itself matters more."""
    with contextlib.suppress(OSError):
        folder.mkdir(parents=True, exist_ok=True)
        files.write(folder / f"{receipt.layer}.json", json.dumps(receipt.to_json(), default=str), kept="fast")


def serving(told: Mapping[str, Receipt]) -> dict[str, float] | None:
    """Which bundles get requests, in percent, as the proxy itself last reported; None if unknown."""
    traffic = told.get("traffic")
    weights = traffic.facts.get("weights") if traffic is not None else None
    return {str(name): float(share) for name, share in weights.items() if share} if isinstance(weights, Mapping) else None


def read(folder: Path) -> dict[str, Receipt]:
    """The newest receipt of each layer that has ever answered; unreadable files count as never answered."""
    found = {}
    for file in sorted(folder.glob("[!.]*.json")):
        with contextlib.suppress(OSError, ValueError, TypeError):
            receipt = Receipt(**json.loads(file.read_text("utf-8")))
            found[receipt.layer] = receipt
    return found


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class RequestsInFlight:
    """What happened to the requests in flight on workers that are ending. `known` is False if any number is missing.

    `leaving` workers are still answering this many `requests` each (None: unknown), until `until` at the latest (Unix seconds; None:
    not asked to end yet); `cut_off` are those that were killed with unanswered ones.
    """

    known: bool
    leaving: tuple[Mapping[str, Any], ...] = ()
    cut_off: tuple[Mapping[str, Any], ...] = ()

    def to_json(self) -> dict[str, Any]:
        return {"known": self.known, "leaving": [dict(one) for one in self.leaving], "cut_off": [dict(one) for one in self.cut_off]}


def requests(receipt: Receipt | None, *, since: int) -> RequestsInFlight:
    """What the infrastructure layer's *receipt* reports on requests since revision *since*. Without its facts nothing is known."""
    facts = receipt.facts if receipt is not None else {}
    if not isinstance(facts.get("leaving"), list) or not isinstance(facts.get("workers"), Mapping):
        return RequestsInFlight(known=False)
    leaving = [{"bundle": one.get("bundle"), "requests": one.get("requests"), "until": one.get("until")} for one in facts["leaving"]]
    for arm, worker in facts["workers"].items():
        if worker.get("leaving") and worker.get("pid") is not None:
            leaving.append({"bundle": arms.bundle_of(arm), "requests": worker.get("in_flight"), "until": None})
    cuts = [one for one in facts.get("cut_off", ()) if isinstance(one.get("revision"), int) and one["revision"] >= since]
    return RequestsInFlight(
        known=all(one["requests"] is not None for one in (*leaving, *cuts)),
        leaving=tuple(leaving),
        cut_off=tuple(dict(one) for one in cuts),
    )
