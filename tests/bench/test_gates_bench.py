"""What the measurement of the gates claims, on its quick run: few false rollbacks, and no slower than the best sound rule."""

from __future__ import annotations

import math

import pytest
from scipy import stats

from bench import __main__ as command
from bench import gates
from bench.table import Row, Table, text

CHANCE = 0.001
"""How seldom a rule that keeps to its alpha may miss a bound below."""


@pytest.fixture(scope="module")
def tables() -> list[Table]:
    """One quick run for all tests of this file."""
    return gates.run(quick=True)


def rows(table: Table, ending: str) -> list[Row]:
    """The rows of a figure, for all the traffic that was tried."""
    return [row for row in table.rows if row.what.endswith(ending)]


def test_a_healthy_release_is_seldom_rolled_back(tables: list[Table]):
    """No more runs than a true rate of alpha gives in all but one of a thousand measurements, wherever that is promised."""
    promised = [row for table in tables for row in rows(table, "false rollbacks") if row.below is not None]
    assert len(promised) >= 15
    most = stats.binom.ppf(1 - CHANCE / len(promised), gates.QUICK.runs, gates.ALPHA)
    for row in promised:
        assert row.ours is not None
        assert row.ours * gates.QUICK.runs / 100 <= most, row.what


def test_a_fault_is_found_as_fast_as_by_the_bare_mixture(tables: list[Table]):
    """Median and 95th percentile within a tenth, and no more users harmed than a tenth above, wherever both find it."""
    found = [row for what in ("median", "p95", "bad answers") for row in rows(tables[0], what)]
    told = [row for row in found if row.ours is not None and gates.UNIFORM in row.peers]
    assert len([row for row in told if row.what.endswith("median")]) >= 3
    for row in told:
        assert row.ratios[gates.UNIFORM] <= 1.1, row.what


def test_a_tenfold_fault_is_always_found(tables: list[Table]):
    """At two requests a second too, where the fixed rule finds it in a minority of runs."""
    for row in rows(tables[0], "x10: found"):
        assert row.ours == 100
    assert rows(tables[0], "2/s x10: found")[0].peers[gates.ARTICLE] < 50


def test_rules_that_add_up_failures_roll_back_healthy_releases(tables: list[Table]):
    """What the table is there to show: most healthy releases, in hours, under the rules in use elsewhere."""
    for row in rows(tables[0], "healthy: false rollbacks"):
        assert row.peers[gates.ARGO] > 50
        assert row.peers[gates.FLAGGER] > 50
    assert rows(tables[0], "20/s healthy, first 25 min: false rollbacks")[0].peers[gates.FLAGGER] > 50


def test_where_the_promise_ends_is_shown(tables: list[Table]):
    """Bursts in one arm: every row says that nothing is promised, and ours is still far below the bare mixture's."""
    bursts = [row for row in tables[1].rows if row.what.startswith("bursts")]
    assert len(bursts) == 3
    for row in bursts:
        assert row.below is None
        assert "not promised" in row.note
        assert row.ours is not None
        assert row.ours < row.peers[gates.UNIFORM]


def test_both_arms_slow_blame_nobody(tables: list[Table]):
    """Where rules on the candidate alone roll back nearly every run."""
    (row,) = [row for row in tables[2].rows if "both arms slow" in row.what]
    assert min(row.peers.values()) > 90


def test_every_table_can_be_printed(tables: list[Table]):
    """Four tables, each row with a figure of ours or the reason why there is none; the command knows the measurement."""
    assert "gates" in command.NAMES
    assert len(tables) == 4
    for table in tables:
        assert table.title in text(table)
        for row in table.rows:
            assert row.ours is not None or "never: ours" in row.note
            assert row.ours is None or math.isfinite(row.ours)
