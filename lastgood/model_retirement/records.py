"""How long the hosted models of a bundle live, as it was found out last: a bundle whose model is gone is nothing to go back to.

A bundle names its hosted models in the meta of any part: `"llms": [pin, ...]`. What is found out about them stands in the
ledger as an evaluation of kind `liveness`; a date that has passed counts, also if nobody has asked since.

What does not belong here: asking (`ops.liveness`), what the provider says (`llm.liveness`), choosing a target (`release`).
"""

from __future__ import annotations

import dataclasses
import datetime
from collections.abc import Mapping
from typing import Any

from lastgood import errors, ledger
from lastgood.bundle import manifest as bundles

KIND = "liveness"
META = "llms"
DAY_S = 86_400.0
ORDER = ("alive", "unknown", "dying", "gone")
"""From good to bad: a bundle fares as the worst of its models."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Lifetime:
    """How long a bundle answers. `status` is one of ORDER, `ends_at` Unix time, None if nothing is announced."""

    status: str
    why: str
    ends_at: float | None = None

    def at(self, now: float) -> Lifetime:
        """The same, looked at *now*: what was to end by then is gone."""
        if self.ends_at is None or self.ends_at > now or self.status == "gone":
            return self
        day = datetime.datetime.fromtimestamp(self.ends_at, datetime.UTC).date().isoformat()
        return dataclasses.replace(self, status="gone", why=f"{self.why.partition(':')[0]}: it was to be shut down on {day}")

    def to_json(self) -> dict[str, Any]:
        """What stands in the ledger."""
        return dataclasses.asdict(self)


def pins(bundle: bundles.Bundle) -> list[Mapping[str, Any]]:
    """The pins of the models that *bundle* asks, in plain JSON; none for one that asks nobody."""
    return [pin for part in bundle.parts.values() for pin in part.meta.get(META, ())]


def check(bundle: bundles.Bundle) -> None:
    """Raise UsageError if a part names its hosted models in another form than `pins` reads."""
    for name, part in bundle.parts.items():
        named = part.meta.get(META, ())
        if not isinstance(named, list | tuple) or not all(isinstance(pin, Mapping) for pin in named):
            raise errors.UsageError(
                f"{META!r} in the meta of part {name!r} is no list of objects; give the pin of each hosted model as one"
            )


def newest(book: ledger.Ledger, digest: str, *, now: float) -> Lifetime | None:
    """What is known of bundle *digest* at Unix time *now*; None if nobody has asked, or there is nothing to ask."""
    found = [one.report for one in book.evaluations(digest) if one.kind == KIND]
    return Lifetime(status=found[-1]["status"], why=found[-1]["why"], ends_at=found[-1]["ends_at"]).at(now) if found else None


def gone(book: ledger.Ledger, digest: str, *, now: float) -> str | None:
    """Why bundle *digest* answers no more, if that is known; else None."""
    found = newest(book, digest, now=now)
    return found.why if found is not None and found.status == "gone" else None
