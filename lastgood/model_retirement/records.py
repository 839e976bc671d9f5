"""How long the hosted models of a bundle live, as last recorded: a bundle whose model is gone is not a rollback target.

A bundle names its hosted models in the meta of any part: `"llms": [pin, ...]`. What is found out about them stands in the
ledger as an evaluation of kind `liveness`; a date that has passed counts, also if nobody has asked since.

What does not belong here: asking (`check`), what the provider says (`providers`), choosing a target (`release.targets`).
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
"""From good to bad: a bundle fares as the worst of its models."""
HEARD_S = 14 * DAY_S
"""What a host said of a model on its own disk counts for so many seconds; who serves it says so once a week."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Lifetime:
    """How long a bundle answers. `status` is one of ORDER, `ends_at` Unix time, None if nothing is announced.

    `host` has found that out on its own disk, where the bundle asks a local model; empty if any host would find the same.
    """

    status: str
    why: str
    ends_at: float | None = None
    host: str = ""

    def at(self, now: float) -> Lifetime:
        """The same, looked at *now*: what was to end by then is gone."""
        if self.ends_at is None or self.ends_at > now or self.status == "gone":
            return self
        day = text.day(self.ends_at)
        return dataclasses.replace(self, status="gone", why=f"{self.why.partition(':')[0]}: it was to be shut down on {day}")

    def to_json(self) -> dict[str, Any]:
        """What stands in the ledger."""
        return dataclasses.asdict(self)


def pins(bundle: manifest.Bundle) -> list[Mapping[str, Any]]:
    """The pins of the models that *bundle* asks, in plain JSON; none for one that asks nobody."""
    return [pin for part in bundle.parts.values() for pin in part.meta.get(META, ())]


def check(bundle: manifest.Bundle) -> None:
    """Raise UsageError if a part names its hosted models in another form than `pins` reads."""
    for name, part in bundle.parts.items():
        named = part.meta.get(META, ())
        if not isinstance(named, list | tuple) or not all(isinstance(pin, Mapping) for pin in named):
            raise errors.UsageError(
                f"{META!r} in the meta of part {name!r} is not a list of objects; give the pin of each hosted model as an object"
            )


def newest(book: ledger.Ledger, digest: str, *, now: float) -> Lifetime | None:
    """What is known of bundle *digest* at Unix time *now*; None if nobody has asked, or there is nothing to ask.

    Of what hosts found on their own disks the best counts: a bundle answers if it does on one of them.
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
    """What stands in the ledger, as a lifetime. An earlier release does not say who found it out."""
    return Lifetime(status=report["status"], why=report["why"], ends_at=report["ends_at"], host=report.get("host", ""))


def gone(book: ledger.Ledger, digest: str, *, now: float) -> str | None:
    """Why bundle *digest* answers no more, if that is known; else None."""
    found = newest(book, digest, now=now)
    return found.why if found is not None and found.status == "gone" else None
