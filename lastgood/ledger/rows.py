"""The values that the ledger returns, and their conversion from rows.

What does not belong here: SQL.
"""

from __future__ import annotations

import bisect
import dataclasses
import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Literal, cast

from lastgood import errors
from lastgood.bundle import manifest as bundle
from lastgood.bundle.manifest import short
from lastgood.core.events import Marked
from lastgood.core.state import Mark, State, from_json
from lastgood.system import plain
from lastgood.system import text as times

Record = Mapping[str, Any]

HAS_CLOCK = '%"clock":%'
"""Matches evidence that may contain a second time."""
CLOCKS_DIFFER_S = 1.0
"""Seconds by which a clock may be behind the previous revision without a note."""
SALT = "salt"
"""Key of a proposal's evidence: the secret that decides which users its candidate gets. It is never printed."""
MAX_TIME = 1e12
"""Unix seconds; the database refuses later times too, so that a wrong unit cannot put all later revisions in the far future."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class BundleRow:
    """A registered bundle. `provenance` describes how it was built; `registered_at` is Unix time in seconds."""

    bundle: bundle.Bundle
    provenance: Mapping[str, Any]
    registered_at: float


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Revision:
    """One row of a service's release log: the whole state since `at` (Unix seconds), who committed it, and why.

    `state.marks` are the marks at that time of the bundles that the state names. `marks` are those
    written with this revision. `hash` is that of its audit entry.
    """

    service: str
    number: int
    state: State
    verb: str
    actor: str
    reason: str
    at: float
    evidence: Mapping[str, Any]
    operation: str | None
    hash: str
    marks: tuple[Marked, ...]

    @property
    def read_at(self) -> float:
        """The committer's clock time: `at`, unless that clock was behind the revision before."""
        return clock_read(self.evidence, self.at)

    @property
    def salt(self) -> str:
        """The secret drawn for the release that this revision proposed; empty if it proposed none, or an older release of lastgood did."""
        drawn = self.evidence.get(SALT, "")
        return drawn if isinstance(drawn, str) else ""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Readiness:
    """What `host` reports on its worker for `arm`: ready or not since `since`, last heard of at `seen_at` (Unix seconds, its own clock).

    `failures` counts consecutive failed starts; `detail` is the latest problem.
    """

    service: str
    arm: str
    host: str
    ready: bool
    failures: int
    since: float
    seen_at: float
    detail: str


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Evaluation:
    """A finding about a bundle, and its time (Unix seconds)."""

    kind: str
    report: Mapping[str, Any]
    at: float


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Delivery:
    """A page's status on one channel: times in Unix seconds, `error` of the latest try; `delivered_at` None: not yet."""

    tries: int
    next_at: float
    delivered_at: float | None
    error: str


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Page:
    """A message about `revision` of a service that a person must get; pages of one `key` are about one problem.

    One that `resolves` closes the earlier ones of its key. `body` contains the gates' results, and for a revision's page who did
    what and the bundles now and before. `deliveries` are by channel; `delivered_at` is when every configured channel had it.
    """

    service: str
    revision: int
    key: str
    severity: Literal["critical", "warning", "info"]
    resolves: bool
    summary: str
    body: Mapping[str, Any]
    at: float
    delivered_at: float | None
    deliveries: Mapping[str, Delivery]


def page(row: Record, tried: Sequence[Record]) -> Page:
    """A page row with the requested deliveries.

    A body that cannot be read is replaced by `damaged`: the summary must reach a person in any case, and no
    other page may wait for it.
    """
    names = ("service", "revision", "key", "severity", "summary", "at", "delivered_at")
    try:
        body = parse(row["body"], f"the body of page {row['key']!r} of revision {row['revision']} of {row['service']!r}")
    except errors.Damaged as error:
        body = {"damaged": str(error)}
    return Page(
        **{name: row[name] for name in names},
        resolves=bool(row["resolves"]),
        body=body,
        deliveries={one["channel"]: _delivery(one) for one in tried},
    )


def _delivery(row: Record) -> Delivery:
    return Delivery(tries=row["tries"], next_at=row["next_at"], delivered_at=row["delivered_at"], error=row["error"])


def bundle_row(row: Record) -> BundleRow:
    """Raises Damaged if the manifest does not hash to the id."""
    found = bundle.from_manifest(parse(row["manifest"], f"the manifest of {row['id']!r}"))
    if found.id != row["id"] or found.service != row["service"]:
        raise errors.Damaged(
            f"the stored manifest does not hash to bundle id {row['id']!r}; run 'lastgood audit verify', or restore a backup"
        )
    provenance = parse(row["provenance"], f"the provenance of {row['id']!r}")
    return BundleRow(bundle=found, provenance=provenance, registered_at=row["registered_at"])


def evaluation(row: Record) -> Evaluation:
    """One evaluation in the form that the ledger returns."""
    return Evaluation(kind=row["kind"], report=parse(row["report"], f"an evaluation of {row['bundle']!r}"), at=row["at"])


def state(row: Record, marks: Mapping[str, Mark]) -> State:
    """The state of a revision row. Raises Damaged if it contradicts the row's own columns."""
    what = f"revision {row['number']} of {row['service']!r}"
    found = from_json(parse(row["state"], what), marks)
    columns = (row["service"], row["number"], row["stable"], row["candidate"], row["previous"])
    if (found.service, found.revision, found.stable, found.candidate, found.previous) != columns:
        raise errors.Damaged(f"{what} is inconsistent; run 'lastgood audit verify', or restore a backup")
    return found


def named(row: Record) -> frozenset[str]:
    """The bundles that a revision row names, whose marks belong to its state."""
    lineage = parse(row["state"], f"revision {row['number']} of {row['service']!r}").get("lineage", ())
    return frozenset(filter(None, (*lineage, row["stable"], row["candidate"], row["previous"])))


def fold(marks: Iterable[Record], *, wanted: frozenset[str], until: int) -> dict[str, Mark]:
    """The marks in force at revision *until*, from rows in the order they were written. A revocation is permanent."""
    found: dict[str, Mark] = {}
    for row in marks:
        digest, kind = row["bundle"], row["kind"]
        held = found.get(digest)
        if row["revision"] > until or digest not in wanted or (held is not None and held.kind == "revoked"):
            continue
        if kind == "lifted":
            found.pop(digest, None)
        else:
            found[digest] = Mark(kind=kind, reason=row["reason"])
    return found


def marked(rows: Sequence[Record]) -> tuple[Marked, ...]:
    """The marks in *rows* in the decision core's form."""
    return tuple(Marked(bundle=row["bundle"], kind=row["kind"], reason=row["reason"]) for row in rows)


def revision(row: Record, *, marks: Mapping[str, Mark], written: Sequence[Record], digest: str) -> Revision:
    """A revision row with the *marks* in force at it, those *written* with it, and the *digest* of its audit entry."""
    return Revision(
        service=row["service"],
        number=row["number"],
        state=state(row, marks),
        verb=row["verb"],
        actor=row["actor"],
        reason=row["reason"],
        at=row["at"],
        evidence=parse(row["evidence"], f"the evidence of revision {row['number']} of {row['service']!r}"),
        operation=row["operation"],
        hash=digest,
        marks=marked(written),
    )


def conflict(wanted: State, newest: Record | None) -> errors.Conflict:
    """The change that was faster than *wanted*: who did what, when, and what serves now."""
    service = wanted.service
    if newest is None:
        return errors.Conflict(f"{service!r} has no revision yet, so {wanted.revision} cannot be next; check its status, then decide again")
    when = times.moment(newest["at"])
    stable = short(newest["stable"]) if newest["stable"] else "nothing"
    candidate = f" with candidate {short(newest['candidate'])}" if newest["candidate"] else ""
    return errors.Conflict(
        f"{service!r} is already at revision {newest['number']}: {newest['actor']} did {newest['verb']!r} at {when}, stable is {stable}"
        f"{candidate}; see 'lastgood history {service}', then decide again"
    )


def same_verb(done: Revision, verb: str) -> Revision:
    """The result of the first run of a repeated operation. Raises Conflict if that was a different operation."""
    if done.verb != verb:
        raise errors.Conflict(
            f"operation {done.operation!r} already made revision {done.number} with {done.verb!r}, not {verb!r}; use a new operation id"
        )
    return done


_DECODER = json.JSONDecoder(parse_int=plain.number)


def parse(text: str, what: str) -> dict[str, Any]:
    """The JSON object in *text*. Raises Damaged, naming *what* it should have been."""
    try:
        value = _DECODER.decode(text)
    except (ValueError, RecursionError) as error:
        raise errors.Damaged(f"{what} cannot be parsed: {error}; run 'lastgood audit verify', or restore a backup") from error
    if not isinstance(value, dict):
        raise errors.Damaged(f"{what} is not a JSON object; run 'lastgood audit verify', or restore a backup")
    return cast("dict[str, Any]", value)


def dump(value: Mapping[str, Any]) -> str:
    """Canonical JSON text of an object. Raises Damaged for what JSON cannot represent."""
    return bundle.canonical(dict(value)).decode()


def registration(registered: bundle.Bundle, *, provenance: Mapping[str, Any], now: float) -> dict[str, Any]:
    """The row of a bundle, checked to read back as the same bundle. Raises UsageError if it would not."""
    manifest = plain.tree(registered.manifest(), what="the manifest")
    texts = {"manifest": manifest, "provenance": plain.tree(provenance, what="the provenance")}
    row: dict[str, Any] = {name: dump(value) for name, value in texts.items()}
    for name, text in row.items():
        if len(text.encode()) > plain.MAX_BYTES:
            raise errors.UsageError(f"the {name} is longer than {plain.MAX_BYTES} bytes; keep large content in a file of the bundle")
    try:
        again = bundle.from_manifest(parse(row["manifest"], "the manifest")).manifest()
    except errors.Damaged as error:
        raise errors.UsageError(f"the bundle could not be read back: {error}") from error
    if again != manifest:
        raise errors.UsageError("the manifest would not be read back unchanged; make each part with 'artifacts.part'")
    return {"id": registered.id, "service": registered.service, **row, "registered_at": check_time(now)}


def readiness(row: Record) -> Readiness:
    """One row of a host's report on its workers."""
    names = ("service", "arm", "host", "failures", "since", "seen_at", "detail")
    return Readiness(ready=bool(row["ready"]), **{name: row[name] for name in names})


def check_text(**texts: str | None) -> None:
    """Refuse text that not every engine can store: a NUL character, half of a surrogate pair."""
    for name, text in texts.items():
        if text is not None or name != "operation":
            plain.check_text(text, what=name)


def clock_read(evidence: Mapping[str, Any], at: float) -> float:
    """The time that *evidence* records besides *at*, if the two differed."""
    clock = evidence.get("clock")
    read = clock.get("read") if isinstance(clock, Mapping) else None
    return float(read) if isinstance(read, int | float) else at


def in_order(draft: Mapping[str, Any], *, after: float) -> dict[str, Any]:
    """A revision's row whose time is not before *after*, as the database demands; if its clock was earlier, that time is kept."""
    evidence, read = dict(draft["evidence"]), draft["at"]
    if after - read > CLOCKS_DIFFER_S:
        evidence["clock"] = {**evidence.get("clock", {}), "read": read}
    return {**draft, "evidence": dump(evidence), "at": max(read, after)}


def believed(read: Sequence[float]) -> list[float]:
    """The times of successive revisions, corrected where one of their clocks was wrong.

    Time only increases: as few readings as possible are taken to be wrong, of equally many the earlier ones, and each of
    those is moved to the nearest moment between its neighbours.
    """
    tails: list[int] = []  # for each length, the end of the ascending run that ends lowest
    before: list[int | None] = []
    for index, value in enumerate(read):
        place = bisect.bisect_right([read[end] for end in tails], value) if tails and value < read[tails[-1]] else len(tails)
        before.append(tails[place - 1] if place else None)
        tails[place:] = [index, *tails[place + 1 :]]
    right = set()
    step = tails[-1] if tails else None
    while step is not None:
        right.add(step)
        step = before[step]
    times = list(read)
    later = float("inf")
    for index in range(len(read) - 1, -1, -1):
        later = times[index] = read[index] if index in right else min(read[index], later)
    earlier = float("-inf")
    for index, value in enumerate(times):
        earlier = times[index] = max(value, earlier)
    return times


def check_time(now: object) -> float:
    """*now* as a float, refused if it is not a valid time."""
    if not isinstance(now, int | float) or not 0 <= now < MAX_TIME:
        said = repr(now) if isinstance(now, float) else f"a value of type {type(now).__name__}"
        raise errors.UsageError(f"{said} is not a time; give Unix seconds")
    return float(now)
