"""Which replicas may be removed. The index part stays in the store in any case, so a mistake costs a rebuild, not data.

A replica stays while an alias names a bundle that needs it, while that bundle is among the most recent stable ones, while
its service is held, while a bundle that needs it is under a legal hold, while a reader has it open (the engine ensures
that), and for some days after it was built.

What does not belong here: removing (`base.VectorIndex.retire`), what serves (`ledger`).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping, Sequence

from lastgood import errors
from lastgood import ledger as ledgers
from lastgood.bundle.manifest import Bundle, short
from lastgood.index import base, snapshot
from lastgood.settings import IndexSettings

LEGAL_HOLD = "legal-hold"
DAY_S = 86_400.0


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Need:
    """Why a replica has to stay: `bundle` of `service` needs it, because of `why`."""

    service: str
    bundle: str
    why: str

    def __str__(self) -> str:
        return f"bundle {short(self.bundle)!r} of {self.service!r} needs it: {self.why}"


Needs = Mapping[str, Sequence[Need]]
"""By the replica's name."""


def needs(ledger: ledgers.Ledger, settings: IndexSettings) -> Needs:
    """What every service needs by its state and its legal holds."""
    found: dict[str, list[Need]] = {}
    for service in ledger.services():
        for bundle, why in _reasons(ledger, service, keep_stable=settings.keep_stable):
            name = replica_of(ledger.bundle(bundle))
            if name is not None:
                found.setdefault(name, []).append(Need(service=service, bundle=bundle, why=why))
    return found


def _reasons(ledger: ledgers.Ledger, service: str, *, keep_stable: int) -> Iterable[tuple[str, str]]:
    state = ledger.state(service)
    for alias in ("stable", "candidate", "previous"):
        digest = getattr(state, alias)
        if digest is not None:
            yield digest, f"it is {alias}"
    yield from ((digest, f"it is one of the last {keep_stable} stable bundles") for digest in state.lineage[:keep_stable])
    if state.hold is not None:
        yield from ((digest, f"the service is held: {state.hold.reason}") for digest in state.lineage)
    yield from ((digest, f"it is under a legal hold: {reason}") for digest, reason in legal_holds(ledger, service).items())


def replica_of(bundle: Bundle) -> str | None:
    """The name of the replica that *bundle* needs; None if it has no index."""
    part = bundle.parts.get("index")
    return snapshot.name_of(str(part.meta["snapshot"])) if part and "snapshot" in part.meta else None


def legal_holds(ledger: ledgers.Ledger, service: str) -> dict[str, str]:
    """The bundles of *service* under a legal hold, each with its reason."""
    held: dict[str, str] = {}
    for note in ledger.notes(service, kind=LEGAL_HOLD):
        if note["held"]:
            held[note["bundle"]] = note["reason"]
        else:
            held.pop(note["bundle"], None)
    return held


def set_legal_hold(ledger: ledgers.Ledger, service: str, bundle: str, *, held: bool, reason: str, actor: str, now: float) -> None:
    """Place *bundle* under a legal hold or lift it; both are in the audit trail. Raises NothingToDo, or UsageError without a reason."""
    if not reason.strip():
        raise errors.UsageError("a legal hold requires a reason, which the audit trail keeps; give one with --reason")
    if (bundle in legal_holds(ledger, service)) is held:
        raise errors.NothingToDo(f"{short(bundle)!r} is {'already' if held else 'not'} under a legal hold")
    ledger.note(service, kind=LEGAL_HOLD, body={"bundle": bundle, "held": held, "reason": reason}, actor=actor, now=now)


def check(replica: base.Replica, *, needed: Needs, keep_days: float, now: float) -> None:
    """Raise NotAllowed, naming the first reason, if *replica* has to stay at Unix time *now*."""
    reasons = needed.get(replica.name, ())
    if reasons:
        raise errors.NotAllowed(f"index {replica.name!r} stays: {reasons[0]}; release or roll back first, or lift the hold")
    if replica.built_at is not None and now - replica.built_at < keep_days * DAY_S:
        raise errors.NotAllowed(
            f"index {replica.name!r} stays: it was built less than {keep_days:g} days ago; wait, or lower index.keep_days"
        )


def sweep(engine: base.VectorIndex, ledger: ledgers.Ledger, settings: IndexSettings, *, now: float, dry_run: bool = False) -> list[str]:
    """Retire every replica that nothing keeps; returns their names. One that a reader has open stays, without an error."""
    needed = needs(ledger, settings)
    gone = []
    for replica in engine.replicas():
        try:
            check(replica, needed=needed, keep_days=settings.keep_days, now=now)
            if not dry_run:
                engine.retire(replica.name)
        except errors.NotAllowed:
            continue
        gone.append(replica.name)
    return gone
