"""The ledger in memory: the few methods that a running service uses, for worlds by the thousand.

It is a double, so it is held against the real one: `test_simulation` runs a share of the seeds on both and compares every row.
Whatever is written goes through JSON here too, for a value that JSON cannot hold is refused there as well.
"""

from __future__ import annotations

import bisect
import dataclasses
import json
from collections.abc import Collection, Iterator, Mapping
from types import MappingProxyType
from typing import Any

from lastgood import errors
from lastgood.bundle import manifest
from lastgood.core.events import Effect, Marked, Paged
from lastgood.core.state import Mark, State, from_json
from lastgood.ledger import Fence, Seen, outbox, rows
from lastgood.ledger.leases import MAX_SKEW_S


class Book:
    """One service's release log, leases, measurements and pages."""

    def __init__(self, service: str) -> None:
        self._service = service
        self._bundles: dict[str, manifest.Bundle] = {}
        self._log: list[rows.Revision] = []
        self._marks: dict[str, Mark] = {}
        self._was_stable: set[str] = set()
        self._measured: dict[str, list[tuple[int, float, str]]] = {}
        self._leases: dict[str, tuple[str, float, int]] = {}
        self._readiness: dict[tuple[str, str], rows.Readiness] = {}
        self._pages: dict[tuple[int, str], rows.Page] = {}
        self.notes: list[tuple[str, Mapping[str, Any]]] = []

    # --- bundles ---------------------------------------------------------------------------------------------

    def register(self, bundle: manifest.Bundle, *, provenance: Mapping[str, Any], actor: str, now: float) -> bool:
        new = bundle.id not in self._bundles
        self._bundles[bundle.id] = bundle
        return new

    def bundle(self, bundle_id: str) -> manifest.Bundle:
        if bundle_id not in self._bundles:
            raise errors.NotFound(f"bundle {bundle_id!r} is not registered; see 'lastgood bundle list SERVICE'")
        return self._bundles[bundle_id]

    def evaluations(self, bundle_id: str) -> list[rows.Evaluation]:
        return []

    # --- revisions -------------------------------------------------------------------------------------------

    def state(self, service: str, *, about: Collection[str] = ()) -> State:
        newest = self._log[-1].state if self._log else State(service=service)
        return dataclasses.replace(newest, marks=self._marks_of(newest, about)) if about else newest

    def newest(self, service: str) -> int:
        return len(self._log)

    def revision(self, service: str, number: int) -> rows.Revision:
        if not 0 < number <= len(self._log):
            raise errors.NotFound(f"{service!r} has no revision {number}; see 'lastgood history {service}'")
        return self._log[number - 1]

    def history(self, service: str, *, limit: int = 50, before: int | None = None) -> list[rows.Revision]:
        below = len(self._log) if before is None else min(before - 1, len(self._log))
        return self._log[max(below - limit, 0) : below][::-1]

    def was_stable(self, service: str, bundle_id: str) -> bool:
        return bundle_id in self._was_stable

    def append(
        self,
        state: State,
        effects: tuple[Effect, ...],
        *,
        verb: str,
        actor: str,
        reason: str,
        now: float,
        evidence: Mapping[str, Any] = MappingProxyType({}),
        operation: str | None = None,
        emergency: bool = False,
        fence: Fence | None = None,
    ) -> rows.Revision:
        rows.check_text(verb=verb, actor=actor, reason=reason)
        self._check_fence(fence)
        written, proof = rows.dump(state.to_json()), rows.dump(evidence)
        before = self._log[-1] if self._log else None
        if state.revision != len(self._log) + 1:
            raise errors.Conflict(f"{self._service!r} is at revision {len(self._log)} already; look again, then decide again")
        marks = tuple(effect for effect in effects if isinstance(effect, Marked))
        for mark in marks:
            self._mark(mark)
        kept = from_json(json.loads(written), {})
        revision = rows.Revision(
            service=state.service,
            number=state.revision,
            state=dataclasses.replace(kept, marks=self._marks_of(kept)),
            verb=verb,
            actor=actor,
            reason=reason,
            at=max(rows.check_time(now), before.at if before else 0.0),
            evidence=json.loads(proof),
            operation=operation,
            hash="",
            marks=marks,
        )
        self._log.append(revision)
        if state.stable is not None:
            self._was_stable.add(state.stable)
        for paged in outbox.merged(effect for effect in effects if isinstance(effect, Paged)):
            about = revision.number if paged.about is None else paged.about
            self._page(about, paged, at=revision.at, body=paged.body or {})
        return revision

    def _check_fence(self, fence: Fence | None) -> None:
        if fence is not None and self._leases.get(fence.name, ("", 0.0, 0))[::2] != (fence.holder, fence.token):
            raise errors.Conflict(f"{fence.holder} no longer has the lease {fence.name!r}")

    def note(self, service: str, *, kind: str, body: Mapping[str, Any], actor: str, now: float) -> None:
        self.notes.append((kind, json.loads(rows.dump(body))))

    def _mark(self, mark: Marked) -> None:
        held = self._marks.get(mark.bundle)
        if held is not None and held.kind == "revoked":
            return
        if mark.kind == "lifted":
            self._marks.pop(mark.bundle, None)
        else:
            self._marks[mark.bundle] = Mark(kind=mark.kind, reason=mark.reason)

    def _marks_of(self, state: State, about: Collection[str] = ()) -> dict[str, Mark]:
        if not self._marks:
            return {}
        wanted = {*state.lineage, state.stable, state.candidate, state.previous, *about}
        return {digest: mark for digest, mark in self._marks.items() if digest in wanted}

    # --- the controllers' desk -------------------------------------------------------------------------------

    def lease(self, name: str, *, holder: str, now: float, ttl_s: float) -> bool:
        return self.take_lease(name, holder=holder, now=now, ttl_s=ttl_s) is not None

    def take_lease(self, name: str, *, holder: str, now: float, ttl_s: float) -> Fence | None:
        of, until, token = self._leases.get(name, ("", 0.0, 0))
        if of and now < until <= now + ttl_s + MAX_SKEW_S:
            if of != holder:
                return None
            if until - now > ttl_s / 2:
                return Fence(name, holder, token)
        token += of != holder
        self._leases[name] = holder, now + ttl_s, token
        return Fence(name, holder, token)

    def lease_holder(self, name: str, *, now: float = 0.0) -> str | None:
        of, until, _ = self._leases.get(name, ("", 0.0, 0))
        return of if of and until > now else None

    def give_up_lease(self, name: str, *, holder: str) -> None:
        of, _, token = self._leases.get(name, ("", 0.0, 0))
        if of == holder:
            self._leases[name] = holder, 0.0, token

    def readiness(self, service: str) -> list[rows.Readiness]:
        return [self._readiness[key] for key in sorted(self._readiness)]

    def report_readiness(self, service: str, *, host: str, seen: Mapping[str, Seen], now: float) -> None:
        before = {arm: row for (arm, of), row in self._readiness.items() if of == host}
        self._readiness = {key: row for key, row in self._readiness.items() if key[1] != host}
        for arm, one in seen.items():
            known = before.get(arm)
            since = known.since if known is not None and known.ready == one.ready else now
            told = {"ready": one.ready, "failures": one.failures, "detail": one.detail}
            self._readiness[arm, host] = rows.Readiness(service=service, arm=arm, host=host, since=since, seen_at=now, **told)  # type: ignore[arg-type]

    def record(self, service: str, analysis: str, body: Mapping[str, Any], *, now: float) -> int:
        try:
            text = json.dumps(body, allow_nan=False)
        except ValueError as error:
            raise errors.Damaged(f"{analysis!r} holds what JSON cannot: {error}; this is a bug in the caller") from error
        kept = self._measured.setdefault(analysis, [])
        seq = kept[-1][0] + 1 if kept else 1
        kept.append((seq, rows.check_time(now), text))
        return seq

    def recorded(self, service: str, analysis: str, *, after: int = 0) -> Iterator[dict[str, Any]]:
        kept = self._measured.get(analysis, [])
        first = bisect.bisect_right(kept, after, key=lambda row: row[0])
        for seq, at, text in kept[first:]:
            yield {"seq": seq, "at": at, "body": json.loads(text)}

    def forget_measurements(self, service: str, *, before: float, at_most: int | None = None) -> int:
        old = sorted((at, analysis, seq) for analysis, kept in self._measured.items() for seq, at, _ in kept if at < before)[:at_most]
        gone = {(analysis, seq) for _, analysis, seq in old}
        for analysis, kept in self._measured.items() if gone else ():
            kept[:] = [row for row in kept if (analysis, row[0]) not in gone]
        return len(gone)

    def page(
        self,
        service: str,
        *,
        revision: int,
        key: str,
        severity: str,
        summary: str,
        body: Mapping[str, Any],
        now: float,
        resolves: bool = False,
        fence: Fence | None = None,
    ) -> bool:
        self._check_fence(fence)
        if revision > len(self._log):
            raise errors.NotAllowed(
                f"{service!r} has no revision {revision} yet, so nobody can be paged about it; page about one that is there"
            )
        told = Paged(summary=summary, key=key, severity=severity, resolves=resolves)  # type: ignore[arg-type]
        return self._page(revision, told, at=now, body=body)

    def _page(self, revision: int, told: Paged, *, at: float, body: Mapping[str, Any] = MappingProxyType({})) -> bool:
        if (revision, told.key) in self._pages:
            return False
        self._pages[revision, told.key] = rows.Page(
            service=self._service,
            revision=revision,
            key=told.key,
            severity=told.severity,
            resolves=told.resolves,
            summary=told.summary,
            body=dict(body),
            at=at,
            delivered_at=None,
            deliveries={},
        )
        return True

    def pages(self, service: str, *, limit: int = 50) -> list[rows.Page]:
        found = sorted(self._pages.values(), key=lambda page: (-page.revision, page.key))
        return found[:limit]
