"""The release timeline: every ledger revision becomes a materialization of `<service>/release`.

The ledger is the truth and this is a mirror, so it does not matter who made the change: the command line, the
controller or a Dagster job. The data version of `<service>/release` is the stable bundle's id.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING, TypedDict

import dagster as dg

from dagster_lastgood import parts
from dagster_lastgood.sensors import mirror
from lastgood import errors
from lastgood.bundle import manifest
from lastgood.settings import Settings

if TYPE_CHECKING:
    from lastgood.ledger import Ledger, Revision

BATCH = 100
"""Most revisions of one service that one tick reports: a report takes about 10 ms and a tick may take 60 s."""

NOTHING = "none"


class Position(TypedDict):
    """A revision by its number; the hash distinguishes a ledger from another one that replaced it."""

    revision: int
    hash: str


START: Position = {"revision": 0, "hash": ""}


def release_mirror(services: Sequence[str]) -> dg.SensorDefinition:
    """The sensor for *services*."""
    return mirror.mirror(
        "release_mirror",
        services,
        _look,
        description="Shows every revision of the release ledger as a materialization of <service>/release.",
        skips=(errors.Unavailable, errors.NotFound),
    )


def _look(context: dg.SensorEvaluationContext, settings: Settings, services: Sequence[str], told: mirror.Positions) -> mirror.Told:
    """The revisions not reported to Dagster yet; the position of a service is the last one reported."""
    from lastgood import ledger

    events: list[dg.AssetMaterialization] = []
    now: dict[str, Position] = {}
    with ledger.connect(settings.ledger_url, read_only=True) as connected:
        for service in services:
            last = _last_told(context, connected, service, told.get(service, START))
            known, new = _from(connected, service, last["revision"])
            events += [materialization(after, before=before) for before, after in zip([known, *new], new, strict=False)]
            now[service] = {"revision": new[-1].number, "hash": new[-1].hash} if new else last
    where = ", ".join(f"{service} is at revision {last['revision']}" for service, last in {**told, **now}.items())
    return mirror.Told(events=events, positions=now, words=f"no new revision: {where}")


def _last_told(context: dg.SensorEvaluationContext, ledger: "Ledger", service: str, cursor: Position) -> Position:
    """The newest revision of this ledger known to Dagster, from the cursor or from its own newest materialization.

    A position that is not in this ledger belongs to another one, and everything is reported from the start.
    """
    newest = ledger.newest(service)
    stored = context.instance.get_latest_materialization_event(parts.release_key(service))
    metadata = mirror.shown(stored.asset_materialization if stored else None)
    positions = [cursor]
    if {"lastgood/revision", "lastgood/hash"} <= set(metadata):
        positions.append({"revision": metadata["lastgood/revision"].value, "hash": metadata["lastgood/hash"].value})
    here = [p for p in positions if 0 < p["revision"] <= newest and ledger.revision(service, p["revision"]).hash == p["hash"]]
    return max(here, key=lambda position: position["revision"], default=START)


def _from(ledger: "Ledger", service: str, number: int) -> "tuple[Revision | None, list[Revision]]":
    """Revision *number* (None for 0, which is before the first), and at most one batch of those after it."""
    newest = min(ledger.newest(service), number + BATCH)
    known = ledger.revision(service, number) if number else None
    return known, [ledger.revision(service, n) for n in range(number + 1, newest + 1)]


def materialization(revision: "Revision", *, before: "Revision | None") -> dg.AssetMaterialization:
    """The metadata of *revision*, which followed *before*, for the timeline of `<service>/release`."""
    state = revision.state
    was, now = before.state.stable if before else None, state.stable
    marks = [{"bundle": mark.bundle, "kind": mark.kind, "reason": mark.reason} for mark in revision.marks]
    return dg.AssetMaterialization(
        parts.release_key(revision.service),
        description=headline(revision, was=was),
        tags={"dagster/data_version": now or NOTHING},
        metadata={
            "lastgood/revision": revision.number,
            "lastgood/bundle": now or NOTHING,
            "lastgood/hash": revision.hash,
            "action": revision.verb,
            "from": was or NOTHING,
            "to": now or NOTHING,
            "candidate": state.candidate or NOTHING,
            "phase": state.phase,
            "reason": revision.reason,
            "actor": revision.actor,
            "committed": dg.MetadataValue.timestamp(revision.at),
            **({"marks": dg.MetadataValue.json(marks)} if marks else {}),
        },
    )


def headline(revision: "Revision", *, was: str | None) -> str:
    """One line: `ROLLBACK 3f9c2e1a77b0 -> b81d07aa4c52`, or the verb and its subject if stable did not change."""
    now = revision.state.stable
    verb = revision.verb.upper()
    if was != now:
        return f"{verb} {manifest.short(was) if was else NOTHING} -> {manifest.short(now) if now else NOTHING}"
    about = revision.state.candidate or next((mark.bundle for mark in revision.marks), None)
    return f"{verb} {manifest.short(about)}" if about else verb
