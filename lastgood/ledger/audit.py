"""Prove that a service's release log is whole: hash chain, rows, guards, and signed checkpoints outside the database.

The chain shows that an entry was edited, dropped or slipped in; the digests in it show the same for the rows that it
records. Only something outside the database can show that the newest entries were cut off: a checkpoint is the
number and hash of the newest entry, signed, appended to `<home>/audit/<service>.jsonl`.

What does not belong here: writing entries, which each transaction of the ledger does itself.
"""

from __future__ import annotations

import dataclasses
import fcntl
import json
import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from lastgood import bundle, durable, errors
from lastgood import keys as signing
from lastgood.failpoints import failpoint
from lastgood.ledger import chain, migrate, queries, rows
from lastgood.ledger.dialect import NoSchema
from lastgood.ledger.ledger import Ledger

KIND = "application/vnd.lastgood.checkpoint.v1+json"

_PAGE = 2000


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class AuditReport:
    """What `verify` found; `problems` is empty exactly if `ok`.

    `head` is the hash of the newest entry, `anchored` the number of the newest entry that a valid signed
    checkpoint covers (0: none): if entries up to there are cut off, it shows.
    """

    ok: bool
    entries: int
    head: str
    anchored: int
    problems: tuple[str, ...]


def export(ledger: Ledger, service: str, *, since: float | None = None, until: float | None = None) -> Iterator[dict[str, Any]]:
    """The audit entries of *service*, oldest first, with times in [since, until] (Unix seconds); `body` is parsed."""
    for entry in _entries(ledger, service):
        if (since is None or entry["at"] >= since) and (until is None or entry["at"] <= until):
            yield {**entry, "body": rows.parse(entry["body"], f"audit entry {entry['seq']} of {service!r}")}


def _entries(ledger: Ledger, service: str) -> Iterator[rows.Row]:
    after = 0
    while True:
        with ledger.reading():
            page = ledger.dialect.fetch(queries.AUDIT_PAGE, service=service, after=after, limit=_PAGE)
        yield from page
        if len(page) < _PAGE:
            return
        after = page[-1]["seq"]


# --- signed checkpoints ------------------------------------------------------------------------------------


def checkpoint_file(keys: Path, service: str) -> Path:
    """Where the checkpoints of *service* are: beside the keys folder, outside the database."""
    return keys.parent / "audit" / f"{service}.jsonl"


def checkpoint(ledger: Ledger, service: str, keys: Path) -> None:
    """Sign the newest entry and put it on disk; nothing to do if that was signed last time.

    Raises Damaged instead of signing if the entry signed last time is gone or another one.
    """
    failpoint("audit.before_checkpoint")
    file = checkpoint_file(keys, service)
    _make_folder(file.parent)
    with file.open("a+b") as out:
        fcntl.flock(out, fcntl.LOCK_EX)
        last = _last_line(out)
        with ledger.reading():
            head = ledger.dialect.fetch(queries.AUDIT_HEAD, service=service)
            signed = ledger.dialect.fetch(queries.AUDIT_ENTRY, service=service, seq=last["seq"]) if last else []
        if last and (not signed or signed[0]["hash"] != last["hash"]):
            raise errors.Damaged(
                f"the audit trail of {service!r} is not the one that was signed at entry {last['seq']}; run 'lastgood audit verify {service}'"
            )
        if not head or (last and last["seq"] == head[0]["seq"]):
            return
        out.write(_signed(service, head[0], keys))
        out.flush()
        failpoint("audit.after_checkpoint_write")
        os.fsync(out.fileno())


def _make_folder(folder: Path) -> None:
    if not folder.is_dir():
        folder.mkdir(parents=True, exist_ok=True)
        durable.sync(folder.parent)


def _last_line(file: Any) -> dict[str, Any] | None:
    """The last whole line; half a line, left by a crash while it was being written, is cut off."""
    size = file.seek(0, os.SEEK_END)
    start = max(0, size - 4096)
    file.seek(start)
    tail = file.read()
    whole = tail.rfind(b"\n") + 1
    if whole < len(tail):
        file.truncate(start + whole)
    lines = tail[:whole].splitlines()
    if not lines:
        return None
    try:
        last = json.loads(lines[-1])
        return {"seq": int(last["seq"]), "hash": str(last["hash"])}
    except (ValueError, KeyError, TypeError) as error:
        raise errors.Damaged(f"{file.name} ends with a line that is no checkpoint; put it back from a backup") from error


def _signed(service: str, head: rows.Row, keys: Path) -> bytes:
    claim = {"service": service, "seq": head["seq"], "hash": head["hash"]}
    try:
        signature = signing.sign(signing.load_private(keys), bundle.canonical(claim), kind=KIND).hex()
    except errors.LastgoodError as error:
        raise errors.Unavailable(f"the audit trail of {service!r} cannot be signed: {error}") from error
    return bundle.canonical({**claim, "signature": signature}) + b"\n"


# --- checking ----------------------------------------------------------------------------------------------


def verify(ledger: Ledger, service: str, keys: Path) -> AuditReport:
    """Check everything that is recorded about *service* and report all problems, each in one line of plain words.

    Reads one snapshot, in pages; 100,000 revisions take seconds, not memory. Raises Unavailable only.
    """
    return _Check(ledger, service).run(keys)


class _Check:
    def __init__(self, ledger: Ledger, service: str) -> None:
        self._ledger = ledger
        self._service = service
        self._problems: list[str] = []
        self._recorded: dict[tuple[str, str], tuple[int, str]] = {}  # (kind, subject) -> entry number, digest of the row
        self._head = chain.GENESIS
        self._entries = 0

    def run(self, keys: Path) -> AuditReport:
        signed = self._checkpoints(keys)
        try:
            with self._ledger.reading():
                for part in (self._storage, self._guards, lambda: self._chain(signed), self._bundles, self._revisions, self._evaluations):
                    self._attempt(part)
        except errors.Damaged as error:
            self._say(str(error))
        for (kind, subject), (seq, _) in self._recorded.items():
            self._say(f"{kind} {subject} is missing although entry {seq} recorded it; it was deleted")
        anchored = max((seq for seq in signed if seq <= self._entries), default=0)
        problems = tuple(self._problems)
        return AuditReport(ok=not problems, entries=self._entries, head=self._head, anchored=anchored, problems=problems)

    def _say(self, problem: str) -> None:
        self._problems.append(problem)

    def _attempt(self, part: Callable[[], None]) -> None:
        """Go on after a part that cannot be read at all, so that one broken page does not hide the rest."""
        try:
            part()
        except (errors.Damaged, NoSchema) as error:
            self._say(str(error))
            self._ledger.dialect.undo()
            self._ledger.dialect.connect()
            self._ledger.dialect.begin_reading()

    def _fetch(self, query: str, **parameters: Any) -> Sequence[rows.Row]:
        return self._ledger.dialect.fetch(query, service=self._service, **parameters)

    def _paged(self, query: str, key: str) -> Iterator[Sequence[rows.Row]]:
        after = 0
        while page := self._fetch(query, after=after, limit=_PAGE):
            yield page
            after = page[-1][key]

    def _storage(self) -> None:
        for line in self._ledger.dialect.integrity():
            self._say(f"the database finds its own storage damaged: {line}; restore a backup")

    def _guards(self) -> None:
        dialect = self._ledger.dialect
        version = migrate.check(dialect)
        found, wanted = dialect.schema(), migrate.guards(dialect.name, until=version)
        newer = version > migrate.ours(dialect.name)
        for name, text in wanted.items():
            if name not in found:
                self._say(f"{name!r} of the ledger's own guards and tables is missing or switched off; restore a backup")
            elif found[name] != text and not newer:
                self._say(f"{name!r} of the ledger's own guards and tables was changed; restore a backup")

    def _chain(self, signed: dict[int, str]) -> None:
        for page in self._paged(queries.AUDIT_PAGE, "seq"):
            for entry in page:
                self._entry(entry)
                if entry["seq"] in signed and signed[entry["seq"]] != entry["hash"]:
                    self._say(f"entry {entry['seq']} is not the one that was signed; the audit trail was rewritten")
        for seq in signed:
            if seq > self._entries:
                self._say(f"entry {seq} was signed but the audit ends at entry {self._entries}; the newest entries were cut off")

    def _entry(self, entry: rows.Row) -> None:
        seq, name = entry["seq"], f"entry {entry['seq']} ({entry['kind']} {entry['subject']})"
        if seq != self._entries + 1:
            self._say(f"entries {self._entries + 1} to {seq - 1} are missing; they were deleted")
        elif entry["prev_hash"] != self._head:
            self._say(f"{name} does not continue entry {seq - 1}; one of the two was changed")
        if chain.entry_hash(entry) != entry["hash"]:
            self._say(f"{name} does not match its own hash; it was changed")
        self._entries, self._head = seq, entry["hash"]
        self._record(entry, name)

    def _record(self, entry: rows.Row, name: str) -> None:
        try:
            body = rows.parse(entry["body"], name)
            digest = str(body["digest"])
            if entry["kind"] == "note":
                if chain.note_digest(body["note"]) != digest:
                    self._say(f"{name} does not say what was noted; it was changed")
                return
        except (errors.Damaged, KeyError, TypeError, ValueError):
            self._say(f"{name} does not parse; it was changed")
            return
        key = (entry["kind"], entry["subject"])
        if key in self._recorded:
            self._say(f"{name} records the same as entry {self._recorded[key][0]}; one of the two was slipped in")
        self._recorded[key] = (entry["seq"], digest)

    def _bundles(self) -> None:
        for row in self._fetch(queries.ALL_BUNDLES):
            self._compare("bundle", row["id"], chain.bundle_digest(row))
            try:
                rows.bundle_row(row)
            except errors.LastgoodError as error:
                self._say(str(error))

    def _revisions(self) -> None:
        newest = 0
        for page in self._paged(queries.REVISION_PAGE, "number"):
            written: dict[int, list[rows.Row]] = {}
            for mark in self._fetch(queries.MARKS_WITH, first=page[0]["number"], last=page[-1]["number"]):
                written.setdefault(mark["revision"], []).append(mark)
            for row in page:
                number = row["number"]
                if number != newest + 1:
                    self._say(f"revisions {newest + 1} to {number - 1} are missing")
                newest = number
                self._compare("revision", str(number), chain.revision_digest(row, written.get(number, [])))
        for mark in self._fetch(queries.STRAY_MARKS):
            self._say(f"a mark ({mark['kind']} {mark['bundle']}) names revision {mark['revision']}, which is not there; it was slipped in")

    def _evaluations(self) -> None:
        for row in self._fetch(queries.ALL_EVALUATIONS):
            self._compare("evaluation", f"{row['bundle']}/{row['seq']}", chain.evaluation_digest(row))

    def _compare(self, kind: str, subject: str, digest: str) -> None:
        recorded = self._recorded.pop((kind, subject), None)
        if recorded is None:
            self._say(f"{kind} {subject} is in no audit entry; it was slipped in")
        elif recorded[1] != digest:
            self._say(f"{kind} {subject} is not as entry {recorded[0]} recorded it; it was changed")

    def _checkpoints(self, keys: Path) -> dict[int, str]:
        """Number -> hash of every entry that was signed. Bad lines are reported."""
        file = checkpoint_file(keys, self._service)
        try:
            lines = file.read_bytes().split(b"\n")[:-1]  # what follows the last line end was cut off by a crash
        except FileNotFoundError:
            if (keys / signing.PUBLIC).exists() and self._ledger_has_entries():
                self._say(f"there are no signed checkpoints in {file}, so cut-off entries would not show; put the file back from a backup")
            return {}
        check = self._signature_check(keys) if lines else None
        if check is None:
            return {}
        signed: dict[int, str] = {}
        for number, line in enumerate(lines, start=1):
            if (claim := check(line)) is None:
                self._say(f"line {number} of {file} is not a checkpoint of {self._service!r} signed by this key; it was changed")
            else:
                signed[claim[0]] = claim[1]
        return signed

    def _ledger_has_entries(self) -> bool:
        try:
            with self._ledger.reading():
                return bool(self._fetch(queries.AUDIT_HEAD))
        except errors.Damaged:  # reported by the checks that follow
            return False

    def _signature_check(self, keys: Path) -> Callable[[bytes], tuple[int, str] | None] | None:
        try:
            key = signing.load_public(keys)
        except errors.LastgoodError as error:
            self._say(f"the signed checkpoints cannot be checked: {error}")
            return None

        def check(line: bytes) -> tuple[int, str] | None:
            try:
                claim = json.loads(line)
                valid = signing.verify(key, bytes.fromhex(claim.pop("signature")), bundle.canonical(claim), kind=KIND)
                return (int(claim["seq"]), str(claim["hash"])) if valid and claim["service"] == self._service else None
            except (ValueError, KeyError, TypeError, AttributeError, RecursionError, errors.Damaged):
                return None

        return check
