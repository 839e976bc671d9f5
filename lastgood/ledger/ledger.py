"""The only source of truth about what serves: an append-only log of revisions per service, on SQLite or Postgres.

Every change is one transaction: it takes the service's lock, checks that no other change was faster, adds rows, and adds
exactly one entry to the audit chain. None of these is ever updated or deleted. The database itself refuses whatever would
break the rules, including from a foreign client (`migrations/`).

What does not belong here: deciding the next state (`core`), differences between engines (`dialect`), what controllers keep
in addition to the log (`leases`, `measurements`, `outbox`, `readiness`).
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any

from lastgood import errors
from lastgood.bundle.manifest import Bundle, short
from lastgood.core.events import Effect, Marked, Paged
from lastgood.core.state import State
from lastgood.ledger import chain, queries, reports, rows
from lastgood.ledger.ballast import Ballast
from lastgood.ledger.dialect import DiskFull
from lastgood.ledger.leases import Fence
from lastgood.ledger.measurements import Measurements
from lastgood.ledger.outbox import Outbox
from lastgood.ledger.postgres import Postgres, without_password
from lastgood.ledger.readiness import ReadinessRows
from lastgood.ledger.rows import BundleRow, Evaluation, Revision
from lastgood.ledger.sqlite import Sqlite
from lastgood.system import plain
from lastgood.system.failpoints import failpoint

NOTHING: Mapping[str, Any] = MappingProxyType({})
ALIASES = ("stable", "candidate", "previous")
MIN_PREFIX = 4
NEAR = 32
"""Number of revisions after a moment that are examined for a clock that was ahead at the time."""


def connect(url: str, *, busy_timeout_s: float = 5.0, read_only: bool = False, ballast_bytes: int = 0) -> Ledger:
    """The ledger at *url*: `sqlite:///absolute/path` or `postgresql://user@host/database`.

    Nothing is opened or created before the first use; only `migrate` creates. `busy_timeout_s` is how long
    to wait, in seconds, for another writer. `ballast_bytes` of disk space are kept in reserve beside an
    SQLite file for emergencies, see `Ledger.append`.
    """
    if url.startswith(("postgresql://", "postgres://")):
        return Ledger(Postgres(url, busy_timeout_s=busy_timeout_s, read_only=read_only))
    if not url.startswith("sqlite:///"):
        raise errors.UsageError(
            f"invalid ledger address {without_password(url)!r}; use sqlite:///absolute/path or postgresql://user@host/database"
        )
    path = Path("/" + url.removeprefix("sqlite:").lstrip("/"))
    ballast = None if read_only else Ballast(path.with_name(path.name + ".ballast"), ballast_bytes)
    return Ledger(Sqlite(path, busy_timeout_s=busy_timeout_s, read_only=read_only), ballast=ballast)


class Ledger(Measurements, Outbox, ReadinessRows):
    """A ledger: the release log of each service, and the leases, measurements, pages and readiness rows of controllers.

    May be shared by threads, which then wait for each other. Every method raises Unavailable if the ledger cannot be
    reached or is locked by another process, and Damaged if its content is not what was written. After either, the next call
    uses a fresh connection.
    """

    # --- bundles -------------------------------------------------------------------------------------------

    def services(self) -> list[str]:
        """The services that have a bundle, by name."""
        with self.reading():
            return [row["service"] for row in self.dialect.fetch(queries.SERVICES)]

    def register(self, registered: Bundle, *, provenance: Mapping[str, Any], actor: str, now: float) -> bool:
        """Add a bundle; False if it already exists. The caller has verified the bytes of every part.

        Raises UsageError for a manifest or provenance that would not read back unchanged.
        """
        rows.check_text(actor=actor)
        row = rows.registration(registered, provenance=provenance, now=now)
        with self._writing(registered.service):
            if self.dialect.fetch(queries.BUNDLE, id=registered.id):
                return False
            self.dialect.fetch(queries.ADD_BUNDLE, **row)
            body = {"digest": chain.bundle_digest(row)}
            self._audit(registered.service, kind="bundle", subject=registered.id, body=body, actor=actor, now=now)
        return True

    def bundle(self, bundle_id: str) -> Bundle:
        """The bundle with this full digest. Raises NotFound."""
        return self.bundle_row(bundle_id).bundle

    def bundle_row(self, bundle_id: str) -> BundleRow:
        """The bundle with this full digest, and its provenance. Raises NotFound."""
        with self.reading():
            found = self.dialect.fetch(queries.BUNDLE, id=bundle_id)
        if not found:
            raise errors.NotFound(f"bundle {bundle_id!r} is not registered; see 'lastgood bundle list SERVICE'")
        return rows.bundle_row(found[0])

    def bundles(self, service: str, *, limit: int = 50) -> list[BundleRow]:
        """The bundles of *service*, newest first."""
        with self.reading():
            return [rows.bundle_row(row) for row in self.dialect.fetch(queries.BUNDLES, service=service, limit=limit)]

    def resolve(self, service: str, text: str) -> str:
        """The full digest that *text* refers to: a digest, a unique prefix of at least 4 hex digits, or an alias.

        Raises NotFound, listing the candidates for an ambiguous prefix.
        """
        if text in ALIASES:
            return self._alias(service, text)
        digits = text.removeprefix("sha256:").lower()
        if len(digits) < MIN_PREFIX or len(digits) > 64 or digits.strip("0123456789abcdef"):
            raise errors.NotFound(
                f"{text!r} does not identify a bundle; give at least {MIN_PREFIX} hex digits of its digest, or one of {', '.join(ALIASES)}"
            )
        low = "sha256:" + digits
        with self.reading():
            found = self.dialect.fetch(queries.BUNDLE_IDS, service=service, low=low, high=low + "g", limit=10)
        if len(found) == 1:
            return str(found[0]["id"])
        if not found:
            raise errors.NotFound(f"{service!r} has no bundle {text!r}; see 'lastgood bundle list {service}'")
        choices = ", ".join(short(row["id"]) for row in found)
        raise errors.NotFound(f"{text!r} could mean any of {choices}; give more digits")

    def _alias(self, service: str, alias: str) -> str:
        with self.reading():
            found = self.dialect.fetch(queries.NEWEST_REVISION, service=service)
        if not found or found[0][alias] is None:
            raise errors.NotFound(f"{service!r} has no {alias} bundle at the moment; see 'lastgood status {service}'")
        return str(found[0][alias])

    # --- revisions: reading --------------------------------------------------------------------------------

    def state(self, service: str, *, about: Collection[str] = ()) -> State:
        """The newest state, with the marks of every bundle it names and of those in *about*; revision 0 if none."""
        with self.reading():
            found = self.dialect.fetch(queries.NEWEST_REVISION, service=service)
            wanted = frozenset(about) | (rows.named(found[0]) if found else frozenset())
            number = found[0]["number"] if found else 0
            marks = rows.fold(self._marks_of(service, wanted), wanted=wanted, until=number)
        return rows.state(found[0], marks) if found else State(service=service, marks=marks)

    def newest(self, service: str) -> int:
        """The number of the newest revision; 0 if there is none. One indexed read."""
        with self.reading():
            return int(self.dialect.fetch(queries.NEWEST, service=service)[0]["number"] or 0)

    def revision(self, service: str, number: int) -> Revision:
        """One revision. Raises NotFound."""
        with self.reading():
            found = self._revisions(service, self.dialect.fetch(queries.REVISION, service=service, number=number))
        if not found:
            raise errors.NotFound(f"{service!r} has no revision {number}; see 'lastgood history {service}'")
        return found[0]

    def history(self, service: str, *, limit: int = 50, before: int | None = None) -> list[Revision]:
        """Revisions older than *before*, newest first."""
        below = 2**62 if before is None else before
        with self.reading():
            return self._revisions(service, self.dialect.fetch(queries.HISTORY, service=service, before=below, limit=limit))

    def at(self, service: str, when: float) -> Revision | None:
        """The revision in force at Unix time *when*; None if there was none yet.

        Where the committers' clocks disagreed by more than a second, by the times that most of them agree on.
        """
        with self.reading():
            found = self.dialect.fetch(queries.REVISION_AT, service=service, at=when)
            doubted = self._clocks_differed(service, around=found[0]["number"] if found else 1)
            told = self._at_by_clocks(service, when) if doubted else self._revisions(service, found)
        return told[0] if told else None

    def _clocks_differed(self, service: str, *, around: int) -> bool:
        """Whether a revision from *around* on, or the newest, records a second time: then one of the clocks was wrong."""
        newest = self.dialect.fetch(queries.NEWEST_REVISION, service=service)
        spans = [(around, NEAR), (newest[0]["number"] if newest else 1, 1)]
        return any(
            row["differed"]
            for first, limit in spans
            for row in self.dialect.fetch(queries.CLOCKS_FROM, service=service, clock=rows.HAS_CLOCK, first=first, limit=limit)
        )

    def _at_by_clocks(self, service: str, when: float) -> list[Revision]:
        all_ = self.dialect.fetch(queries.TIMES, service=service, clock=rows.HAS_CLOCK)
        read = [rows.clock_read(rows.parse(row["evidence"], f"revision {row['number']} of {service!r}"), row["at"]) for row in all_]
        in_force = [row["number"] for row, at in zip(all_, rows.believed(read), strict=True) if at <= when]
        if not in_force:
            return []
        return self._revisions(service, self.dialect.fetch(queries.REVISION, service=service, number=in_force[-1]))

    def was_stable(self, service: str, bundle_id: str) -> bool:
        """True if the bundle has ever been stable."""
        with self.reading():
            return bool(self.dialect.fetch(queries.WAS_STABLE, service=service, bundle=bundle_id))

    def _revisions(self, service: str, found: Sequence[rows.Record]) -> list[Revision]:
        if not found:
            return []
        first, last = min(row["number"] for row in found), max(row["number"] for row in found)
        entries = self._fetch_in(queries.AUDIT_HASHES, [str(row["number"]) for row in found], service=service, kind="revision")
        hashes = {row["subject"]: row["hash"] for row in entries}
        written: dict[int, list[rows.Record]] = {}
        for mark in self.dialect.fetch(queries.MARKS_WITH, service=service, first=first, last=last):
            written.setdefault(mark["revision"], []).append(mark)
        named = [rows.named(row) for row in found]
        marks = self._marks_of(service, frozenset().union(*named))
        return [
            rows.revision(
                row,
                marks=rows.fold(marks, wanted=wanted, until=row["number"]),
                written=written.get(row["number"], []),
                digest=hashes.get(str(row["number"]), ""),
            )
            for row, wanted in zip(found, named, strict=True)
        ]

    def _marks_of(self, service: str, wanted: frozenset[str]) -> Sequence[rows.Record]:
        found = self._fetch_in(queries.MARKS_OF, sorted(wanted), service=service)
        # Kinds sort as lifted < quarantined < revoked: within one revision the condemnation counts.
        return sorted(found, key=lambda mark: (mark["revision"], mark["kind"]))

    def _fetch_in(self, query: str, values: Sequence[str], **parameters: Any) -> Sequence[rows.Record]:
        names = {f"v{n}": value for n, value in enumerate(values)}
        if not names:
            return []
        return self.dialect.fetch(query.format(values=", ".join(f":{name}" for name in names)), **names, **parameters)

    # --- revisions: writing --------------------------------------------------------------------------------

    def append(
        self,
        state: State,
        effects: tuple[Effect, ...],
        *,
        verb: str,
        actor: str,
        reason: str,
        now: float,
        evidence: Mapping[str, Any] = NOTHING,
        operation: str | None = None,
        emergency: bool = False,
        fence: Fence | None = None,
    ) -> Revision:
        """Make *state* the newest state, with the marks and pages among *effects*, in one durable transaction.

        `state.revision` must be the newest number plus one, else Conflict names the faster change. A repeated `operation` changes
        nothing and returns the revision that it made the first time. NotAllowed if the database's own rules refuse it. With a *fence*,
        Conflict if that lease has changed hands. With `emergency`, a full disk costs the ballast instead of the change. `at` of the
        revision is *now*, or that of the previous revision if the clock was set back; then `evidence` keeps *now* as `clock`, which
        `Revision.read_at` returns.
        """
        rows.check_text(verb=verb, actor=actor, reason=reason, operation=operation)
        draft = {
            "service": state.service,
            "number": state.revision,
            "state": rows.dump(state.to_json()),
            "stable": state.stable,
            "candidate": state.candidate,
            "previous": state.previous,
            "verb": verb,
            "actor": actor,
            "reason": reason,
            "evidence": evidence,
            "operation": operation,
            "at": rows.check_time(now),
        }
        marks = tuple(effect for effect in effects if isinstance(effect, Marked))
        rows.check_text(**{f"reason of mark {number}": mark.reason for number, mark in enumerate(marks)})
        pages = tuple(effect for effect in effects if isinstance(effect, Paged))
        try:
            done = self._append(draft, state, marks, pages, fence)
        except DiskFull:
            if not emergency or self._ballast is None or not self._ballast.drop():
                raise
            return self._append(draft, state, marks, pages, fence)
        if not emergency and self._ballast is not None:
            self._ballast.keep()
        return done

    def _append(
        self, draft: Mapping[str, Any], state: State, marks: tuple[Marked, ...], pages: tuple[Paged, ...], fence: Fence | None
    ) -> Revision:
        service, operation = state.service, draft["operation"]
        with self._writing(service):
            if fence is not None:
                self._check_fence(fence)
            if operation is not None and (done := self.dialect.fetch(queries.REVISION_OF_OPERATION, service=service, operation=operation)):
                return rows.same_verb(self._revisions(service, done)[0], draft["verb"])
            newest = self.dialect.fetch(queries.NEWEST_REVISION, service=service)
            if state.revision != (newest[0]["number"] if newest else 0) + 1:
                raise rows.conflict(state, newest[0] if newest else None)
            row = rows.in_order(draft, after=newest[0]["at"] if newest else 0.0)
            written = [
                {"service": service, "bundle": m.bundle, "revision": state.revision, "kind": m.kind, "reason": m.reason} for m in marks
            ]
            self._add_revision(row, written)
            self._add_pages(row, pages, before=newest[0] if newest else None)
            body = {"digest": chain.revision_digest(row, written), "verb": row["verb"]}
            self._audit(service, kind="revision", subject=str(state.revision), body=body, actor=row["actor"], now=row["at"])
            return self._revisions(service, [row])[0]

    def _add_revision(self, row: Mapping[str, Any], marks: Sequence[Mapping[str, Any]]) -> None:
        for mark in marks:
            if mark["kind"] == "lifted":
                self.dialect.fetch(queries.ADD_MARK, **mark)
        self.dialect.fetch(queries.ADD_REVISION, **row)
        failpoint("ledger.after_revision_insert")
        for mark in marks:
            if mark["kind"] != "lifted":
                self.dialect.fetch(queries.ADD_MARK, **mark)
        failpoint("ledger.after_marks")

    # --- facts about bundles and services ------------------------------------------------------------------

    def evaluate(self, bundle_id: str, *, kind: str, report: Mapping[str, Any], actor: str, now: float) -> None:
        """Record findings about a bundle. Raises NotFound, or UsageError for a report that its readers could not process."""
        rows.check_text(kind=kind, actor=actor)
        kept = reports.check(kind, plain.tree(report, what=f"the {kind[:100]!r} report"))
        row = {"bundle": bundle_id, "kind": kind, "report": rows.dump(kept), "at": rows.check_time(now)}
        service = self.bundle_row(bundle_id).bundle.service
        with self._writing(service):
            row["seq"] = (self.dialect.fetch(queries.NEWEST_EVALUATION, bundle=bundle_id)[0]["seq"] or 0) + 1
            self.dialect.fetch(queries.ADD_EVALUATION, **row)
            body = {"digest": chain.evaluation_digest(row), "kind": kind}
            self._audit(service, kind="evaluation", subject=f"{bundle_id}/{row['seq']}", body=body, actor=actor, now=now)

    def evaluations(self, bundle_id: str) -> list[Evaluation]:
        """The recorded findings about a bundle, oldest first."""
        with self.reading():
            return [rows.evaluation(row) for row in self.dialect.fetch(queries.EVALUATIONS, bundle=bundle_id)]

    def note(self, service: str, *, kind: str, body: Mapping[str, Any], actor: str, now: float) -> None:
        """Add a fact that changes no state, such as a refusal or a receipt, to the audit chain."""
        rows.check_text(service=service, kind=kind, actor=actor)
        kept = plain.tree(body, what=f"the note {kind[:100]!r}")
        note = {"digest": chain.note_digest(kept), "note": kept}
        rows.check_time(now)
        with self._writing(service):
            self._audit(service, kind="note", subject=kind, body=note, actor=actor, now=now)

    def notes(self, service: str, *, kind: str) -> list[dict[str, Any]]:
        """The bodies of all notes of this kind, oldest first."""
        with self.reading():
            found = self.dialect.fetch(queries.NOTES, service=service, subject=kind)
        return [dict(rows.parse(row["body"], f"note {kind!r} of {service!r}")["note"]) for row in found]

    def _audit(self, service: str, *, kind: str, subject: str, body: Mapping[str, Any], actor: str, now: float) -> None:
        head = self.dialect.fetch(queries.AUDIT_HEAD, service=service)
        entry: dict[str, Any] = {
            "service": service,
            "seq": head[0]["seq"] + 1 if head else 1,
            "kind": kind,
            "subject": subject,
            "body": rows.dump(body),
            "actor": actor,
            "at": float(now),
            "prev_hash": head[0]["hash"] if head else chain.GENESIS,
        }
        entry["hash"] = chain.entry_hash(entry)
        self.dialect.fetch(queries.ADD_AUDIT, **entry)
