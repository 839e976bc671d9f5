"""What must hold of the chunks of a corpus, as Great Expectations, and that none of them holds a secret.

Each expectation belongs to one of the checks in `checks.py`. Limits are facts about the source, with room.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from dagster_lastgood import expectations as judged

MAX_CHARS = 1700
MIN_CHARS = 20
SAME_TEXT = 0.97
"""Least share of texts that are there once. Documentation repeats itself a little: 0.2 % of the chunks of each version."""


def validate(chunks: Path) -> list[dict[str, Any]]:
    """One row per expectation: {"check", "expectation", "column", "passed", "found"}."""
    import json

    import pandas

    rows = [json.loads(line) for line in chunks.read_text("utf-8").splitlines()]
    frame = pandas.DataFrame({"id": [row["id"] for row in rows], "text": [row["text"] for row in rows]})
    frame["folded"] = frame["text"].str.split().str.join(" ")
    frame["chars"] = frame["text"].str.len()
    return [*judged.table(frame, suite_of()), *leaks(rows)]


def suite_of() -> list[Any]:
    """The expectations; `meta` names the check that each belongs to."""
    import great_expectations.expectations as gxe

    def of(check: str) -> dict[str, Any]:
        return {"meta": {"check": check}}

    return [
        gxe.ExpectTableRowCountToBeBetween(min_value=1, **of("empty")),
        gxe.ExpectColumnValuesToNotBeNull(column="text", **of("empty")),
        gxe.ExpectColumnValuesToMatchRegex(column="text", regex=r"\w", **of("empty")),
        gxe.ExpectColumnValuesToBeBetween(column="chars", min_value=MIN_CHARS, **of("empty")),
        gxe.ExpectColumnValuesToBeUnique(column="id", **of("duplicate")),
        gxe.ExpectColumnProportionOfUniqueValuesToBeBetween(column="folded", min_value=SAME_TEXT, **of("duplicate")),
        gxe.ExpectColumnValuesToBeBetween(column="chars", max_value=MAX_CHARS, **of("oversized")),
    ]


def live() -> list[Any]:
    """What is expected of questions as they come in; what they are about is the matter of drift."""
    import great_expectations.expectations as gxe

    return [
        gxe.ExpectTableColumnsToMatchSet(column_set=["question"], exact_match=True, meta={"check": "schema"}),
        gxe.ExpectColumnValuesToNotBeNull(column="question", meta={"check": "schema"}),
        gxe.ExpectColumnValueLengthsToBeBetween(column="question", min_value=2, max_value=500, mostly=0.99, meta={"check": "questions"}),
        gxe.ExpectColumnValuesToMatchRegex(column="question", regex=r"\w", mostly=0.99, meta={"check": "questions"}),
        # One question over and over is a client that is stuck, or a probe.
        gxe.ExpectColumnProportionOfUniqueValuesToBeBetween(column="question", min_value=0.02, meta={"check": "questions"}),
    ]


def leaks(rows: list[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    """Whether a chunk holds a secret; where, and never what."""
    from lastgood.bundle import secret_scan as secrets

    found = [f"{row['id']}, line {one.line}: {one.kind}" for row in rows for one in secrets.find(row["text"])]
    yield {"check": "secrets", "expectation": "no secret", "column": "text", "passed": not found, "found": "; ".join(found)[:1000]}
