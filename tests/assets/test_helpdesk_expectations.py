"""The checks of a corpus: real documentation passes, and each fault fails the check that is about it."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from assets.helpdesk import expectations
from dagster_lastgood import data_checks
from services.helpdesk import prepare
from tests.services import samples

Rows = list[dict[str, Any]]


def validate(folder: Path) -> Rows:
    """What is said of the chunks in *folder*."""
    return data_checks.validate(expectations.chunks(folder), expectations.suite, more=expectations.secrets)


def failed(folder: Path) -> set[str]:
    """The checks that do not pass."""
    return {row["check"] for row in validate(folder) if not row["passed"]}


@pytest.fixture(scope="module")
def rows(tmp_path_factory: pytest.TempPathFactory) -> Rows:
    """The chunks of one version."""
    out = tmp_path_factory.mktemp("corpus")
    prepare.slice_of("5.2", out=out, project=samples.PROJECT)
    return [json.loads(line) for line in (out / prepare.CHUNKS).read_text("utf-8").splitlines()]


@pytest.mark.parametrize("version", ["4.2", "5.2", "6.0"])
def test_real_documentation_passes(tmp_path: Path, version: str) -> None:
    """Every check has said something, and none complains."""
    prepare.slice_of(version, out=tmp_path, project=samples.PROJECT)
    found = validate(tmp_path)
    assert {row["check"] for row in found} == set(expectations.CORPUS)
    assert failed(tmp_path) == set()


SECRET = "AKIA" + "Q" * 16
FAULTS: dict[str, tuple[Callable[[Rows], Rows], str]] = {
    "a chunk without a word": (lambda rows: [{**rows[0], "text": "-- ** -- ** -- ** -- ** --"}, *rows[1:]], "empty"),
    "a chunk that is hardly there": (lambda rows: [{**rows[0], "text": "short"}, *rows[1:]], "empty"),
    "an id that is there twice": (lambda rows: [{**rows[0], "id": rows[1]["id"]}, *rows[1:]], "duplicate"),
    "one text many times": (
        lambda rows: [{**row, "text": rows[0]["text"]} if n % 10 == 0 else row for n, row in enumerate(rows)],
        "duplicate",
    ),
    "a chunk that fits no prompt": (lambda rows: [{**rows[0], "text": "word " * 2000}, *rows[1:]], "oversized"),
    "a key": (lambda rows: [{**rows[0], "text": f"{rows[0]['text']}\nkey {SECRET}"}, *rows[1:]], "secrets"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_fails_its_check_and_no_other(tmp_path: Path, rows: Rows, fault: str) -> None:
    """And what is told of a secret is where it stands, not what it is."""
    change, check = FAULTS[fault]
    (tmp_path / prepare.CHUNKS).write_text("".join(json.dumps(row) + "\n" for row in change(rows)), "utf-8")
    assert failed(tmp_path) == {check}
    assert SECRET not in str([row for row in validate(tmp_path) if row["check"] == "secrets"])
