"""Prove that a service's release log is whole: hash chain, rows, guards, and signed checkpoints outside the database.

The chain shows that an entry was edited, removed or inserted; the digests in it show the same for the rows that it
records. Only something outside the database can show that the newest entries were cut off: a checkpoint is the
number and hash of the newest entry, signed, appended to `<home>/audit/<service>.jsonl`. Each names its predecessor, so that none
can be removed; the first one of a file states that it has none, so that a file which was started anew, after the old one was deleted
together with the newest entries, shows permanently which entries no signature covers. The newest one is stored again in
`<service>.head`, so that the file cannot be cut where the entries were cut.

What does not belong here: writing entries, which each transaction of the ledger does itself.
"""

from __future__ import annotations

import dataclasses
import fcntl
import json
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any, BinaryIO

from lastgood import errors
from lastgood.bundle import manifest
from lastgood.ledger import chain, migrate, queries, rows
from lastgood.ledger.dialect import NoSchema
from lastgood.ledger.ledger import Ledger
from lastgood.system import files, signing
from lastgood.system.failpoints import failpoint

KIND = "application/vnd.lastgood.checkpoint.v1+json"

_PAGE = 2000


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class AuditReport:
    """The result of `verify`; `problems` is empty exactly if `ok`.

    `head` is the hash of the newest entry, `anchored` the number of the newest entry that a valid signed
    checkpoint covers (0: none): if entries up to there are cut off, it shows. With `uncovered` above 0, entries before that
    number are not covered by a checkpoint: they existed before the first checkpoint, so a cut made by then would go unnoticed.
    That is neither detected damage nor proof of integrity.
    """

    ok: bool
    entries: int
    head: str
    anchored: int
    uncovered: int = 0
    problems: tuple[str, ...] = ()


def export(ledger: Ledger, service: str, *, since: float | None = None, until: float | None = None) -> Iterator[dict[str, Any]]:
    """The audit entries of *service*, oldest first, with times in [since, until] (Unix seconds); `body` is parsed."""
    for entry in _entries(ledger, service):
        if (since is None or entry["at"] >= since) and (until is None or entry["at"] <= until):
            yield {**entry, "body": rows.parse(entry["body"], f"audit entry {entry['seq']} of {service!r}")}


def _entries(ledger: Ledger, service: str) -> Iterator[rows.Record]:
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
    """Path of the checkpoints of *service*: next to the keys folder, outside the database."""
    return keys.parent / "audit" / f"{service}.jsonl"


def head_file(keys: Path, service: str) -> Path:
    """A second copy of the newest checkpoint, in a file that is replaced each time."""
    return checkpoint_file(keys, service).with_suffix(".head")


def begin(ledger: Ledger, service: str, keys: Path) -> None:
    """Sign that *service* has no entry yet, before it gets its first: then every entry follows a checkpoint."""
    with ledger.reading():
        if ledger.dialect.fetch(queries.AUDIT_HEAD, service=service):
            return
    file = checkpoint_file(keys, service)
    _make_folder(file.parent)
    with file.open("a+b") as out:
        fcntl.flock(out, fcntl.LOCK_EX)
        if _last_line(out) is None and not head_file(keys, service).exists():
            _append(out, _signed(service, {"seq": 0, "hash": chain.GENESIS}, keys, after=None), head_file(keys, service))


def checkpoint(ledger: Ledger, service: str, keys: Path) -> None:
    """Sign the newest entry and put it on disk; nothing to do if that was signed last time.

    Raises Damaged instead of signing if the entry signed last time is gone or another one, or if checkpoints are missing:
    going on would put new ones in the place of those that show what was cut off.
    """
    failpoint("audit.before_checkpoint")
    file, newest_file = checkpoint_file(keys, service), head_file(keys, service)
    _make_folder(file.parent)
    with file.open("a+b") as out:
        fcntl.flock(out, fcntl.LOCK_EX)
        last = _last_line(out)
        newest = _newest(newest_file)
        if newest is None and last and last["chained"]:
            raise errors.Damaged(
                f"{newest_file}, the second copy of the newest checkpoint of {service!r}, was deleted or changed; restore it from a backup, "
                f"or move {file} away too: then a new file is started, and earlier entries count as not covered"
            )
        if newest is not None and newest["seq"] > (last["seq"] if last else -1):
            if newest["after"] != (last["seq"] if last else None):
                raise errors.Damaged(
                    f"the checkpoints of {service!r} in {file} end before entry {newest['seq']}, which was signed; they were truncated or "
                    f"deleted; restore the file from a backup, see 'lastgood audit verify {service}'"
                )
                # A crash occurred between the two files.
            _write_line(out, newest_file.read_bytes())
            last = {**newest, "chained": True}
        with ledger.reading():
            head = ledger.dialect.fetch(queries.AUDIT_HEAD, service=service)
            signed = ledger.dialect.fetch(queries.AUDIT_ENTRY, service=service, seq=last["seq"]) if last else []
        if last and last["seq"] and (not signed or signed[0]["hash"] != last["hash"]):
            raise errors.Damaged(
                f"the audit trail of {service!r} does not match what was signed at entry {last['seq']}; run 'lastgood audit verify {service}'"
            )
        if not head or (last and last["seq"] == head[0]["seq"]):
            return
        _append(out, _signed(service, head[0], keys, after=last["seq"] if last else None), newest_file)


def _append(out: BinaryIO, line: bytes, newest_file: Path) -> None:
    """The newest one goes to its own file first: if a crash comes between the two, that shows what the other still lacks."""
    files.write(newest_file, line, mode=0o600)
    _write_line(out, line)


def _write_line(out: BinaryIO, line: bytes) -> None:
    out.write(line)
    out.flush()
    failpoint("audit.after_checkpoint_write")
    os.fsync(out.fileno())


def _newest(file: Path) -> dict[str, Any] | None:
    """The newest checkpoint, its signature unchecked; None if there is none, or none that parses, which `verify` reports."""
    try:
        found = json.loads(file.read_bytes())
        after = found["after"]
        return {"seq": int(found["seq"]), "hash": str(found["hash"]), "after": None if after is None else int(after)}
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _make_folder(folder: Path) -> None:
    if not folder.is_dir():
        folder.mkdir(parents=True, exist_ok=True)
        files.sync(folder.parent)


def _last_line(file: Any) -> dict[str, Any] | None:
    """The last complete line; a partial line, left by a crash during the write, is removed."""
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
        return {"seq": int(last["seq"]), "hash": str(last["hash"]), "chained": "after" in last}
    except (ValueError, KeyError, TypeError) as error:
        raise errors.Damaged(f"{file.name} ends with a line that is not a checkpoint; restore it from a backup") from error


def _signed(service: str, head: Mapping[str, Any], keys: Path, *, after: int | None) -> bytes:
    claim = {"service": service, "seq": head["seq"], "hash": head["hash"], "after": after}
    try:
        signature = signing.sign(signing.load_private(keys), manifest.canonical(claim), kind=KIND).hex()
    except errors.LastgoodError as error:
        raise errors.Unavailable(f"the audit trail of {service!r} cannot be signed: {error}") from error
    return manifest.canonical({**claim, "signature": signature}) + b"\n"


# --- checking ----------------------------------------------------------------------------------------------


def verify(ledger: Ledger, service: str, keys: Path) -> AuditReport:
    """Check everything recorded about *service* and report all problems, one line of plain text each.

    Reads one snapshot, in pages; 100,000 revisions take seconds, not memory. Raises Unavailable only.
    """
    return _Check(ledger, service).run(keys)


_Claims = Callable[[bytes], dict[str, Any] | None]
_NONE: Mapping[str, Any] = MappingProxyType({})
"""Predecessor of the first line."""


class _Check:
    def __init__(self, ledger: Ledger, service: str) -> None:
        self._ledger = ledger
        self._service = service
        self._problems: list[str] = []
        self._recorded: dict[tuple[str, str], tuple[int, str]] = {}  # (kind, subject) -> entry number, digest of the row
        self._head = chain.GENESIS
        self._entries = 0
        self._uncovered = 0

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
        return AuditReport(
            ok=not problems, entries=self._entries, head=self._head, anchored=anchored, uncovered=self._uncovered, problems=problems
        )

    def _say(self, problem: str) -> None:
        self._problems.append(problem)

    def _attempt(self, part: Callable[[], None]) -> None:
        """Continue after a part that cannot be read at all, so that one broken page does not hide the rest."""
        try:
            part()
        except (errors.Damaged, NoSchema) as error:
            self._say(str(error))
            self._ledger.dialect.undo()
            self._ledger.dialect.connect()
            self._ledger.dialect.begin_reading()

    def _fetch(self, query: str, **parameters: Any) -> Sequence[rows.Record]:
        return self._ledger.dialect.fetch(query, service=self._service, **parameters)

    def _paged(self, query: str, key: str) -> Iterator[Sequence[rows.Record]]:
        after = 0
        while page := self._fetch(query, after=after, limit=_PAGE):
            yield page
            after = page[-1][key]

    def _storage(self) -> None:
        for line in self._ledger.dialect.integrity():
            self._say(f"the database reports damaged storage: {line}; restore a backup")

    def _guards(self) -> None:
        dialect = self._ledger.dialect
        version = migrate.check(dialect)
        found, wanted = dialect.schema(), migrate.guards(dialect.name, until=version)
        newer = version > migrate.ours(dialect.name)
        for name, text in wanted.items():
            if name not in found:
                self._say(f"{name!r} of the ledger's own guards and tables is missing or disabled; restore a backup")
            elif found[name] != text and not newer:
                self._say(f"{name!r} of the ledger's own guards and tables was changed; restore a backup")

    def _chain(self, signed: dict[int, str]) -> None:
        for page in self._paged(queries.AUDIT_PAGE, "seq"):
            for entry in page:
                self._entry(entry)
                if entry["seq"] in signed and signed[entry["seq"]] != entry["hash"]:
                    self._say(f"entry {entry['seq']} does not match what was signed; the audit trail was rewritten")
        for seq in signed:
            if seq > self._entries:
                self._say(f"entry {seq} was signed but the audit ends at entry {self._entries}; the newest entries were removed")

    def _entry(self, entry: rows.Record) -> None:
        seq, name = entry["seq"], f"entry {entry['seq']} ({entry['kind']} {entry['subject']})"
        if seq != self._entries + 1:
            self._say(f"entries {self._entries + 1} to {seq - 1} are missing; they were deleted")
        elif entry["prev_hash"] != self._head:
            self._say(f"{name} does not follow from entry {seq - 1}; one of the two was changed")
        if chain.entry_hash(entry) != entry["hash"]:
            self._say(f"{name} does not match its own hash; it was changed")
        self._entries, self._head = seq, entry["hash"]
        self._record(entry, name)

    def _record(self, entry: rows.Record, name: str) -> None:
        try:
            body = rows.parse(entry["body"], name)
            digest = str(body["digest"])
            if entry["kind"] == "note":
                if chain.note_digest(body["note"]) != digest:
                    self._say(f"{name} does not match what was noted; it was changed")
                return
        except (errors.Damaged, KeyError, TypeError, ValueError):
            self._say(f"{name} does not parse; it was changed")
            return
        key = (entry["kind"], entry["subject"])
        if key in self._recorded:
            self._say(f"{name} records the same as entry {self._recorded[key][0]}; one of the two was inserted later")
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
            written: dict[int, list[rows.Record]] = {}
            for mark in self._fetch(queries.MARKS_WITH, first=page[0]["number"], last=page[-1]["number"]):
                written.setdefault(mark["revision"], []).append(mark)
            for row in page:
                number = row["number"]
                if number != newest + 1:
                    self._say(f"revisions {newest + 1} to {number - 1} are missing")
                newest = number
                self._compare("revision", str(number), chain.revision_digest(row, written.get(number, [])))
        for mark in self._fetch(queries.STRAY_MARKS):
            self._say(
                f"a mark ({mark['kind']} {mark['bundle']}) names revision {mark['revision']}, which does not exist; it was inserted later"
            )

    def _evaluations(self) -> None:
        for row in self._fetch(queries.ALL_EVALUATIONS):
            self._compare("evaluation", f"{row['bundle']}/{row['seq']}", chain.evaluation_digest(row))

    def _compare(self, kind: str, subject: str, digest: str) -> None:
        recorded = self._recorded.pop((kind, subject), None)
        if recorded is None:
            self._say(f"{kind} {subject} is not in any audit entry; it was inserted later")
        elif recorded[1] != digest:
            self._say(f"{kind} {subject} differs from what entry {recorded[0]} recorded; it was changed")

    def _checkpoints(self, keys: Path) -> dict[int, str]:
        """Number -> hash of every signed entry. Bad lines are reported, and so are signs that some are missing."""
        file, newest_file = checkpoint_file(keys, self._service), head_file(keys, self._service)
        # What follows the last line end was cut off by a crash.
        lines = file.read_bytes().split(b"\n")[:-1] if file.is_file() else []
        newest = newest_file.read_bytes().rstrip(b"\n") if newest_file.is_file() else None
        if not lines and newest is None:
            self._nothing_signed(keys, file)
            return {}
        check = self._signature_check(keys)
        if check is None:
            return {}
        claims = [check(line) for line in lines]
        for number, claim in enumerate(claims, start=1):
            if claim is None:
                self._say(f"line {number} of {file} is not a checkpoint of {self._service!r} signed by this key; it was changed")
        for number, (before, claim) in enumerate(zip([_NONE, *claims], claims, strict=False), start=1):
            if claim is not None and "after" in claim:  # those of older releases do not name their predecessor
                self._follows(claim, before=before, number=number, file=file)
        signed = {claim["seq"]: claim["hash"] for claim in claims if claim is not None}
        if newest is not None or any(claim and "after" in claim for claim in claims):
            found = self._newest_agrees(None if newest is None else check(newest), claims, file=file, newest_file=newest_file)
            signed |= {found["seq"]: found["hash"]} if found else {}
        return signed

    def _nothing_signed(self, keys: Path, file: Path) -> None:
        entries = self._newest_entry()
        if entries and ((keys / signing.PUBLIC).exists() or file.exists()):
            self._say(f"there are no signed checkpoints in {file}, so removed entries would go unnoticed; restore the file from a backup")
        elif entries:  # another machine signs them, or the key is gone too
            self._uncovered = entries + 1

    def _follows(self, claim: Mapping[str, Any], *, before: Mapping[str, Any] | None, number: int, file: Path) -> None:
        seq, after = claim["seq"], claim["after"]
        if after is None and seq > 0:
            self._uncovered = max(self._uncovered, seq)
        elif after is not None and before is not None and before.get("seq") != after:
            self._say(f"line {number} of {file} follows the checkpoint of entry {after}, which is missing; it was removed")

    def _newest_agrees(
        self, newest: dict[str, Any] | None, claims: Sequence[Mapping[str, Any] | None], *, file: Path, newest_file: Path
    ) -> dict[str, Any] | None:
        """The newest checkpoint, which is stored twice, if it is intact; reported if one of the two is missing or behind."""
        if newest is None:
            self._say(f"{newest_file}, the second copy of the newest checkpoint, was deleted or changed; restore it from a backup")
            return None
        if newest.get("after") is None and newest["seq"] > 0:
            self._uncovered = max(self._uncovered, newest["seq"])
        readable = [claim["seq"] for claim in claims if claim is not None]
        last = readable[-1] if readable else None
        lost = newest.get("after") != last or (last is None and newest["seq"] > 0)
        if len(readable) == len(claims) and newest["seq"] != last and lost:
            self._say(
                f"the checkpoints in {file} and {newest_file} do not agree: entry {newest['seq']} was signed last; "
                "some were removed, or one file was restored from an older copy"
            )
        return newest

    def _newest_entry(self) -> int:
        try:
            with self._ledger.reading():
                head = self._fetch(queries.AUDIT_HEAD)
                return int(head[0]["seq"]) if head else 0
        except errors.Damaged:  # reported by the checks that follow
            return 0

    def _signature_check(self, keys: Path) -> _Claims | None:
        try:
            key = signing.load_public(keys)
        except errors.LastgoodError as error:
            self._say(f"the signed checkpoints cannot be checked: {error}")
            return None

        def check(line: bytes) -> dict[str, Any] | None:
            try:
                claim = json.loads(line)
                valid = signing.verify(key, bytes.fromhex(claim.pop("signature")), manifest.canonical(claim), kind=KIND)
                after = claim.get("after")
                typed = type(claim["seq"]) is int and isinstance(claim["hash"], str) and (after is None or type(after) is int)
            except (ValueError, KeyError, TypeError, AttributeError, RecursionError, errors.Damaged):
                return None
            return dict(claim) if valid and typed and claim["service"] == self._service else None

        return check
