"""How long the hosted models of a bundle live, as last recorded: a bundle whose model is gone is not a rollback target.

A bundle names its hosted models in the meta of any part: `"llms": [pin, ...]`. Findings about them are stored in the ledger
as evaluations of kind `liveness`; a date that has passed counts, even if nobody has checked since.

What does not belong here: checking (`check`), the provider's answers (`providers`), choosing a target (`release.targets`).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from lastgood import errors, ledger
from lastgood.bundle import manifest
from lastgood.system import text

KIND = "liveness"
META = "llms"
DAY_S = 86_400.0
ORDER = ("alive", "unknown", "dying", "gone")
"""From good to bad: a bundle's status is that of its worst model."""
HEARD_S = 14 * DAY_S
"""Seconds for which a host's report on a model on its own disk counts; a serving host reports once a week."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Lifetime:
    """How long a bundle can answer. `status` is one of ORDER, `ends_at` Unix time, None if no end is announced.

    `host` determined it on its own disk, for a bundle with a local model; empty if any host would get the same result.
    """

    status: str
    why: str
    ends_at: float | None = None
    host: str = ""

    def at(self, now: float) -> Lifetime:
        """The same at time *now*: what was to end by then is gone."""
        if self.ends_at is None or self.ends_at > now or self.status == "gone":
            return self
        day = text.day(self.ends_at)
        return dataclasses.replace(self, status="gone", why=f"{self.why.partition(':')[0]}: it was to be shut down on {day}")

    def to_json(self) -> dict[str, Any]:
        """The form stored in the ledger."""
        return dataclasses.asdict(self)


def pins(bundle: manifest.Bundle) -> list[Mapping[str, Any]]:
    """The pins of the models that *bundle* uses, in plain JSON; empty for one that uses none."""
    return [pin for part in bundle.parts.values() for pin in part.meta.get(META, ())]


def check(bundle: manifest.Bundle) -> None:
    """Raise UsageError if a part names its hosted models in a form that `pins` does not read."""
    for name, part in bundle.parts.items():
        named = part.meta.get(META, ())
        if not isinstance(named, list | tuple) or not all(isinstance(pin, Mapping) for pin in named):
            raise errors.UsageError(
                f"{META!r} in the meta of part {name!r} is not a list of objects; give the pin of each hosted model as an object"
            )


def newest(book: ledger.Ledger, digest: str, *, now: float) -> Lifetime | None:
    """What is known of bundle *digest* at Unix time *now*; None if it was never checked, or there is nothing to check.

    Of the hosts' findings on their own disks the best counts: a bundle answers if it does on one of them.
    """
    found = [(one.at, parse_lifetime(one.report)) for one in book.evaluations(digest) if one.kind == KIND]
    if not found:
        return None
    newest_at, last = found[-1]
    if not last.host:
        return last.at(now)
    by_host = {one.host: one.at(now) for at, one in found if one.host and abs(newest_at - at) < HEARD_S}
    return min(by_host.values(), key=lambda one: ORDER.index(one.status))


def parse_lifetime(report: Mapping[str, Any]) -> Lifetime:
    """A stored evaluation as a lifetime. An earlier release does not record which host determined it."""
    return Lifetime(status=report["status"], why=report["why"], ends_at=report["ends_at"], host=report.get("host", ""))


def gone(book: ledger.Ledger, digest: str, *, now: float) -> str | None:
    """Why bundle *digest* no longer answers, if that is known; else None."""
    found = newest(book, digest, now=now)
    return found.why if found is not None and found.status == "gone" else None
