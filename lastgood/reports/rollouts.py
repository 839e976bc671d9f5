"""Which revisions belong to one rollout, and how it ended. Reads only the release log."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from typing import Any, Literal

from lastgood import errors, ledger, release
from lastgood.core.state import State

RolloutStatus = Literal["under way", "baking", "released", "taken out", "rolled back", "given up", "called off"]
"""released: it serves, or did until a newer one replaced it. taken out: before its cut-over, blamed. rolled back: after it, blamed.
given up: never ready, or never judged; no bundle is blamed. called off: stopped by a person for another reason."""

_PAGE = 100


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Rollout:
    """One rollout. `stable` served before it; `ending` ended it, `verified` closed the measurement after its rollback.

    `late` means that it was proven and only taken back afterwards: the revisions in between are then left out, and `before`
    is the one in force just before the rollback.
    """

    service: str
    number: int
    candidate: str
    stable: str | None
    outcome: RolloutStatus
    revisions: tuple[ledger.Revision, ...]
    ending: ledger.Revision | None
    verified: ledger.Revision | None
    before: ledger.Revision | None = None

    @property
    def late(self) -> bool:
        return self.before is not None

    @property
    def taken_back(self) -> bool:
        """Whether its candidate was taken back and blamed."""
        return self.outcome in ("taken out", "rolled back")

    @property
    def over_at(self) -> float | None:
        """When it was completely over (Unix seconds); None if it is still under way or being verified."""
        last = self.revisions[-1].state
        if self.ending is None or (last.verifying is not None and self.verified is None and last.verifying.rollout == self.number):
            return None
        return self.revisions[-1].at

    @property
    def taken_back_by(self) -> tuple[Mapping[str, Any], ...]:
        """The verdicts that took it back, as plain JSON."""
        return tuple(self.ending.evidence.get("verdicts", ())) if self.ending and self.taken_back else ()

    def states(self, until: float) -> Iterator[tuple[State, float]]:
        """Every state it was in, oldest first, with the end of each (Unix seconds)."""
        ends = [revision.at for revision in self.revisions[1:]]
        for revision, end in zip(self.revisions, [*ends, until], strict=True):
            if self.before is not None and revision is self.ending:
                yield self.before.state, revision.at
            yield revision.state, end


def newest(book: ledger.Ledger, service: str) -> int:
    """The number of the revision that proposed the newest rollout. Raises NotFound if there was none."""
    for revision in _backward(book, service, book.newest(service)):
        if revision.state.rollout is not None:
            return revision.state.rollout
    known = ", ".join(book.services()) or "none yet"
    raise errors.NotFound(f"{service!r} has never been released; services in this ledger: {known}")


def rollout_ended_by(book: ledger.Ledger, service: str, number: int) -> int | None:
    """The rollout whose rollback revision *number* commits or closes; None if it does neither."""
    revision = book.revision(service, number)
    before = book.revision(service, number - 1) if number > 1 else None
    if revision.verb == "verified" and before is not None and before.state.verifying is not None:
        verifying = before.state.verifying
        return verifying.rollout or _promoted(book, service, verifying.left, before=number)
    if revision.verb not in release.WAYS_BACK or before is None:
        return None
    blamed = {mark.bundle for mark in revision.marks}
    if before.state.rollout is not None and blamed & {before.state.candidate, before.state.stable}:
        return (
            before.state.rollout
            if before.state.candidate in (None, *blamed)
            else _promoted(book, service, before.state.stable, before=number)
        )
    return _promoted(book, service, before.state.stable, before=number) if before.state.stable in blamed else None


def _promoted(book: ledger.Ledger, service: str, digest: str | None, *, before: int) -> int | None:
    """The newest rollout before revision *before* by which *digest* became stable."""
    for revision in _backward(book, service, before - 1):
        if digest is not None and revision.verb == "cut-over" and revision.state.stable == digest:
            return revision.state.rollout
    return None


def find(book: ledger.Ledger, service: str, number: int) -> Rollout:
    """The rollout that revision *number* proposed. Raises NotFound if it proposed none."""
    first = book.revision(service, number)
    if first.state.rollout != number or first.state.candidate is None:
        raise errors.NotFound(
            f"revision {number} of {service!r} proposed no rollout; see 'lastgood history {service}' for those by 'promote'"
        )
    own, ending = _own(book, service, number)
    before = None
    candidate = first.state.candidate
    if ending is not None and ending.state.stable == candidate:
        before, late = _late(book, service, candidate, after=ending)
        if late is not None:
            own, ending = [*own, ending], late
    after = _verification(book, service, ending) if ending is not None else []
    verified = next((revision for revision in after if revision.verb == "verified"), None)
    return Rollout(
        service=service,
        number=number,
        candidate=candidate,
        stable=first.state.stable,
        outcome=_outcome(own, ending, candidate),
        revisions=(*own, *([ending] if ending else []), *after),
        ending=ending,
        verified=verified,
        before=before if before is not None and ending is not None and ending.state.stable != candidate else None,
    )


def _own(book: ledger.Ledger, service: str, number: int) -> tuple[list[ledger.Revision], ledger.Revision | None]:
    """The revisions while it was under way, and the one that ended it; None if it has not ended."""
    own: list[ledger.Revision] = []
    for revision in _forward(book, service, number):
        if revision.state.rollout != number:
            return own, revision
        own.append(revision)
    return own, None


def _late(
    book: ledger.Ledger, service: str, digest: str, *, after: ledger.Revision
) -> tuple[ledger.Revision | None, ledger.Revision | None]:
    """The rollback that left and blamed a proven *digest*, and the revision before it; None if it still serves or was only replaced.

    A bundle that was replaced and later returned to by a rollback may be left later; one that was released again belongs to
    another rollout.
    """
    before = after
    for revision in _forward(book, service, after.number + 1):
        left = before.state.stable == digest != revision.state.stable
        if left and revision.verb in release.WAYS_BACK and any(mark.bundle == digest for mark in revision.marks):
            return before, revision
        if revision.verb == "cut-over" and revision.state.stable == digest:
            return None, None
        before = revision
    return None, None


def _verification(book: ledger.Ledger, service: str, ending: ledger.Revision) -> list[ledger.Revision]:
    """The revisions while the rollback was being verified, up to the end of that; rollouts that began meanwhile are left out."""
    verifying = ending.state.verifying
    if verifying is None or ending.verb not in release.WAYS_BACK:
        return []
    kept: list[ledger.Revision] = []
    for revision in _forward(book, service, ending.number + 1):
        if revision.state.verifying != verifying:
            return [*kept, revision] if revision.verb == "verified" else kept
        if revision.state.rollout is None:
            kept.append(revision)
    return kept


def _outcome(own: list[ledger.Revision], ending: ledger.Revision | None, candidate: str) -> RolloutStatus:
    last = own[-1].state
    if ending is None:
        return "baking" if last.phase == "baking" else "under way"
    if ending.state.stable == candidate:
        return "released"
    if ending.verb in release.WAYS_BACK and any(mark.bundle == candidate for mark in ending.marks):
        return "taken out" if last.candidate == candidate else "rolled back"
    if last.candidate is None:
        return "released"
    return "given up" if ending.verb == "abandon" else "called off"


def _forward(book: ledger.Ledger, service: str, number: int) -> Iterator[ledger.Revision]:
    """Revisions from *number* upwards, oldest first; their numbers have no gaps."""
    while True:
        page = book.history(service, before=number + _PAGE, limit=_PAGE)
        page = [revision for revision in reversed(page) if revision.number >= number]
        yield from page
        if len(page) < _PAGE:
            return
        number += _PAGE


def _backward(book: ledger.Ledger, service: str, number: int) -> Iterator[ledger.Revision]:
    """Revisions from *number* downwards, newest first."""
    while page := book.history(service, before=number + 1, limit=_PAGE):
        yield from page
        number = page[-1].number - 1
