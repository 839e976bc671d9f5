"""The ledger: the cost of a commit compared with a bare one on the same engine, and the cost of reads in a long history."""

from __future__ import annotations

import contextlib
import dataclasses
import itertools
import shutil
import sqlite3
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

from bench import history, measure, postgres, processes
from bench.table import Row, Table
from lastgood import ledger
from lastgood.core.state import State
from lastgood.ledger import Ledger

BARE = "bare INSERT"
WARM_UP = 20


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Size:
    """The amount of work: commits per engine, revisions of the histories that are read, and reads of each kind."""

    commits: int
    histories: tuple[int, ...]
    reads: int


QUICK = Size(commits=100, histories=(100, 1_000, 3_000), reads=60)
FULL = Size(commits=1_000, histories=(100, 10_000, 100_000), reads=400)


def run(*, quick: bool) -> list[Table]:
    """Both tables."""
    size = QUICK if quick else FULL
    with processes.scratch() as folder:
        with postgres.serving(folder / "postgres") as url:
            commits = Table(
                title="Commit of one revision",
                ours="Ledger.append",
                rows=[*_commits("SQLite", _on_sqlite(folder), count=size.commits), *_commits("Postgres", _on_postgres(url), count=size.commits)],
                notes=(
                    ("Ours: one transaction that checks that nobody was faster, adds revision, marks and audit entry, and is guarded by "
                    "triggers; read back at the end."),
                    ("Bare: BEGIN, INSERT of one row as large as ours, COMMIT, through the same driver on a connection of its own; "
                    "ours and bare take turns."),
                    ("Both durable: SQLite with write-ahead log and synchronous=FULL; Postgres with fsync and synchronous_commit on, "
                    "over a Unix socket."),
                ),
            )  # fmt: skip
        return [commits, _reads(folder / "long", size)]


# --- commits -----------------------------------------------------------------------------------------------

Bare = Callable[[str], None]
Engine = contextlib.AbstractContextManager[tuple[Ledger, Bare]]


@contextlib.contextmanager
def _on_sqlite(folder: Path) -> Iterator[tuple[Ledger, Bare]]:
    """A new ledger, and a bare table in a file of its own with the same durability."""
    connection = sqlite3.connect(folder / "bare.db", isolation_level=None)
    connection.execute("PRAGMA journal_mode = WAL")
    connection.execute("PRAGMA synchronous = FULL")
    connection.execute("PRAGMA fullfsync = ON")
    connection.execute("CREATE TABLE bare (number INTEGER PRIMARY KEY, body TEXT NOT NULL)")

    def insert(body: str) -> None:
        connection.execute("BEGIN IMMEDIATE")
        connection.execute("INSERT INTO bare (body) VALUES (?)", (body,))
        connection.execute("COMMIT")

    with contextlib.closing(connection), ledger.connect(f"sqlite:///{folder / 'ledger.db'}") as opened:
        opened.migrate()
        yield opened, insert


@contextlib.contextmanager
def _on_postgres(url: str) -> Iterator[tuple[Ledger, Bare]]:
    """A new ledger, and a bare table on the same server."""
    import psycopg

    with psycopg.connect(url, autocommit=True) as connection, ledger.connect(url) as opened:
        connection.execute("CREATE TABLE bare (number BIGSERIAL PRIMARY KEY, body TEXT NOT NULL)")

        def insert(body: str) -> None:
            connection.execute("BEGIN")
            connection.execute("INSERT INTO bare (body) VALUES (%s)", (body,))
            connection.execute("COMMIT")

        opened.migrate()
        yield opened, insert


def _commits(engine: str, opened: Engine, *, count: int) -> list[Row]:
    ours, bare = [], []
    with opened as (opened_ledger, insert):
        writer = history.Writer(opened_ledger)
        writer.grow(WARM_UP)
        for _ in range(count):
            state, effects = writer.decide()
            body = _as_large(state)
            ours.append(measure.timed_ms(lambda state=state, effects=effects: writer.append(state, effects)))  # type: ignore[misc]
            bare.append(measure.timed_ms(lambda body=body: insert(body)))  # type: ignore[misc]
    ours_spread, bare_spread = measure.spread(ours), measure.spread(bare)
    return [
        Row(what=f"{engine}, p50", unit="ms", ours=ours_spread.p50, peers={BARE: bare_spread.p50}, spread=ours_spread),
        Row(what=f"{engine}, p99", unit="ms", ours=ours_spread.p99, peers={BARE: bare_spread.p99}),
    ]


def _as_large(state: State) -> str:
    return str(state.to_json())


# --- reads -------------------------------------------------------------------------------------------------

Read = Callable[[Ledger, int], object]

FIRST_BUNDLE, UNKNOWN_BUNDLE = history.made(0).id, "sha256:" + "0" * 64

READS: Mapping[str, Read] = {
    "status: state()": lambda opened, _: opened.state(history.SERVICE),
    "newest()": lambda opened, _: opened.newest(history.SERVICE),
    "as of a moment half-way: at()": lambda opened, length: opened.at(history.SERVICE, history.moment(length // 2) + 1),
    "history(50), the newest": lambda opened, _: opened.history(history.SERVICE, limit=50),
    "history(50), from half-way": lambda opened, length: opened.history(history.SERVICE, limit=50, before=length // 2 + 51),
    "was_stable(), the first bundle": lambda opened, _: opened.was_stable(history.SERVICE, FIRST_BUNDLE),
    "was_stable(), one that never was": lambda opened, _: opened.was_stable(history.SERVICE, UNKNOWN_BUNDLE),
}


def _reads(folder: Path, size: Size) -> Table:
    folder.mkdir()
    began = time.perf_counter()
    _grow(folder, size.histories)
    grown_s = time.perf_counter() - began
    with contextlib.ExitStack() as stack:
        opened = {length: stack.enter_context(ledger.connect(_url(folder, length))) for length in size.histories}
        rows = [_row(what, read, opened, count=size.reads) for what, read in READS.items()]
    longest, shortest = size.histories[-1], size.histories[0]
    return Table(
        title=f"Reads of a history of {longest:,} revisions on SQLite, beside one of {shortest:,}",
        ours=f"{longest:,} rev.",
        rows=rows,
        notes=(
            "Median of each; the histories take turns. A ratio of 1 means that length costs nothing.",
            (
                f"Made by {longest:,} real appends in {grown_s:.0f} s, not synced to disk while growing (reads do not notice): "
                f"{history.BUNDLES:,} bundles released in turn, every {history.BAD_EVERY}th rolled back."
            ),
        ),
    )


def _grow(folder: Path, lengths: Sequence[int]) -> None:
    """One ledger that grows, and a copy of it at each of *lengths*."""
    growing = folder / "growing.db"
    with ledger.connect(f"sqlite:///{growing}") as opened:
        opened.migrate()
        writer = history.Writer(opened)
        for length in lengths:
            opened.newest(history.SERVICE)
            opened.dialect.fetch("PRAGMA synchronous = OFF")
            writer.grow(length)
            opened.close()  # the last connection to close moves everything from the log into the file
            shutil.copyfile(growing, folder / f"{length}.db")
    growing.unlink()


def _url(folder: Path, length: int) -> str:
    return f"sqlite:///{folder / f'{length}.db'}"


def _row(what: str, read: Read, opened: Mapping[int, Ledger], *, count: int) -> Row:
    taken: dict[int, list[float]] = {length: [] for length in opened}
    for number, length in itertools.product(range(-5, count), opened):
        ms = measure.timed_ms(lambda length=length: read(opened[length], length))  # type: ignore[misc]
        if number >= 0:  # the first few fill SQLite's page cache
            taken[length].append(ms)
    found = {length: measure.spread(values) for length, values in taken.items()}
    longest = max(found)
    peers = {f"{length:,} rev.": found[length].p50 for length in found if length != longest}
    return Row(what=what, unit="ms", ours=found[longest].p50, peers=peers, spread=found[longest])
