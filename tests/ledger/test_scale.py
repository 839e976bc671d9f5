"""A long history costs nothing to look at: every read of the emergency path uses an index."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from lastgood.core.events import Condemn, ReleaseHold, SetHold
from lastgood.ledger import Ledger, Revision, connect
from tests.ledger.world import SERVICE, act, digest, promote, register, roll_back


def _toggle(ledger: Ledger) -> Revision:
    state = ledger.state(SERVICE)
    event = ReleaseHold() if state.hold else SetHold(reason="r", actor="a")
    return act(ledger, event, now=201.0 + state.revision)


READS: dict[str, Callable[[Ledger], object]] = {
    "state": lambda ledger: ledger.state(SERVICE, about=[digest(1)]),
    "newest": lambda ledger: ledger.newest(SERVICE),
    "at": lambda ledger: ledger.at(SERVICE, 150.0),
    "history": lambda ledger: ledger.history(SERVICE, limit=50),
    "history before": lambda ledger: ledger.history(SERVICE, limit=50, before=100),
    "revision": lambda ledger: ledger.revision(SERVICE, 2),
    "was stable": lambda ledger: ledger.was_stable(SERVICE, digest(1)),
    "never stable": lambda ledger: ledger.was_stable(SERVICE, digest(3)),
    "resolve prefix": lambda ledger: ledger.resolve(SERVICE, digest(1)[7:20]),
    "resolve alias": lambda ledger: ledger.resolve(SERVICE, "stable"),
    "bundles": lambda ledger: ledger.bundles(SERVICE, limit=5),
    "evaluations": lambda ledger: ledger.evaluations(digest(1)),
    "note": lambda ledger: ledger.note(SERVICE, kind="n", body={}, actor="a", now=1.0),
    "append": _toggle,
    "lease": lambda ledger: ledger.lease("gates", holder="a", now=1e6 + ledger.newest(SERVICE), ttl_s=0.1),
    "record": lambda ledger: ledger.record(SERVICE, "1/canary", {"n": 1}, now=1.0),
    "recorded": lambda ledger: list(ledger.recorded(SERVICE, "2/canary", after=1)),
    "forget measurements": lambda ledger: ledger.forget_measurements(SERVICE, before=0.5),
    "page": lambda ledger: ledger.page(SERVICE, revision=1, key="k", severity="info", summary="s", body={}, now=1.0),
    "due pages": lambda ledger: ledger.due_pages("mail", now=1e6),
    "pages": lambda ledger: ledger.pages(SERVICE, limit=5),
    "settle pages": lambda ledger: ledger.settle_pages(["mail", "file"], now=1.0),
}


@pytest.fixture
def grown(tmp_path: Path):
    """A ledger with a few revisions of each kind, not synced: only reads are looked at."""
    with connect(f"sqlite:///{tmp_path / 'ledger.db'}") as ledger:
        ledger.migrate()
        ledger.dialect.fetch("PRAGMA synchronous = OFF")
        register(ledger, 1, 2, 3)
        promote(ledger, digest(1))
        promote(ledger, digest(2))
        roll_back(ledger)
        yield ledger


def _grow(ledger: Ledger, until: int) -> None:
    """Holds and releases of holds, each measured and paged about; every fifth revision quarantines another bundle."""
    while (number := ledger.newest(SERVICE) + 1) <= until:
        if number % 5 == 0:
            register(ledger, number)
            act(ledger, Condemn(bundle=digest(number), kind="quarantined", reason="r"), now=200.0 + number)
        else:
            _toggle(ledger)
        ledger.record(SERVICE, "1/canary", {"n": number}, now=float(number))
        ledger.page(SERVICE, revision=number, key="k", severity="info", summary="s", body={}, now=float(number))
        for channel in ("mail", "file"):
            (page,) = ledger.due_pages(channel, now=1e6)
            ledger.page_tried(page, channel, now=1e6, delivered=True)
        ledger.settle_pages(["mail", "file"], now=1e6)


@pytest.mark.parametrize("name", READS)
def test_no_query_scans_a_table(grown: Ledger, name: str):
    """The plan of every statement that a read or write runs, triggers included, only searches by index."""
    connection = grown.dialect._connection
    seen: list[str] = []
    connection.set_trace_callback(seen.append)
    READS[name](grown)
    connection.set_trace_callback(None)
    statements = [sql for sql in seen if re.match(r"SELECT|INSERT", sql)]
    assert statements
    for sql in statements:
        plan = [row["detail"] for row in connection.execute(f"EXPLAIN QUERY PLAN {sql}")]
        assert not [step for step in plan if (step.startswith("SCAN") or step.endswith("(service=?)")) and not _is_one_row(step, sql)], (
            sql,
            plan,
        )


def _is_one_row(step: str, sql: str) -> bool:
    """A table of one row per schema, or the first rows of an index in its own order."""
    return step in {"SCAN CONSTANT ROW", "SCAN schema_version"} or "LIMIT" in sql or "max(" in sql


def test_the_work_of_a_read_does_not_grow(grown: Ledger, budget: float):
    """Counted in SQLite's own instructions, not in time: the same at five times the revisions."""
    _grow(grown, 200)
    before = {name: _instructions(grown, call) for name, call in READS.items()}
    _grow(grown, round(1000 * budget))
    after = {name: _instructions(grown, call) for name, call in READS.items()}
    for name, steps in after.items():
        assert steps <= before[name] * 1.3 + 100, (name, before[name], steps)


def _instructions(ledger: Ledger, call: Callable[[Ledger], object]) -> int:
    call(ledger)
    count = 0

    def tick() -> None:
        nonlocal count
        count += 1

    ledger.dialect._connection.set_progress_handler(tick, 1)
    call(ledger)
    ledger.dialect._connection.set_progress_handler(None, 0)
    return count


def test_an_sqlite_ledger_loads_nothing_heavy(tmp_path: Path):
    """Promoting and rolling back on SQLite imports neither a Postgres driver, a toolkit, cryptography nor pydantic."""
    code = (
        "import sys; from tests.ledger import scenario; from lastgood.ledger import connect; "
        f"url = 'sqlite:///{tmp_path / 'ledger.db'}'; scenario.prepare(url); assert len(list(scenario.run(url))) == 3; "
        "print(sorted({'psycopg', 'sqlalchemy', 'cryptography', 'pydantic', 'asyncio', 'numpy'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=Path(__file__).parents[2])
    assert done.stdout.strip() == "[]"
