"""Expectations for the chunks of a corpus, in Great Expectations, and the check that none of them contains a secret.

Limits are facts about the source, with a margin.
"""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from dagster_lastgood import data_checks

CORPUS = {
    "empty": "Every chunk has words in it.",
    "duplicate": "Ids are there once, and few texts more than once.",
    "secrets": "No chunk holds a key, a token or a password.",
    "oversized": "No chunk is too long for a prompt.",
}
"""The checks of the corpus, and what each states."""

LIVE = {
    "schema": "Requests have a question, and nothing else.",
    "questions": "Questions are as long as questions are, in words, and not one of them over and over.",
}
"""The checks of live questions; their topics are covered by drift."""

MAX_CHARS = 1700
MIN_CHARS = 20
SAME_TEXT = 0.97
"""Lowest share of texts that occur once. Documentation repeats itself a little: 0.2 % of the chunks of each version."""


def chunks(folder: Path) -> Mapping[str, Any]:
    """The chunks of a corpus as a table, with their text on one line and its length."""
    import json

    import pandas as pd

    rows = [json.loads(line) for line in (folder / "chunks.jsonl").read_text("utf-8").splitlines()]
    frame = pd.DataFrame({"id": [row["id"] for row in rows], "text": [row["text"] for row in rows]})
    return {"chunks": frame.assign(folded=frame["text"].str.split().str.join(" "), chars=frame["text"].str.len())}


def suite() -> list[Any]:
    """The expectations; `meta` names the check that each belongs to."""
    import great_expectations.expectations as gxe

    return [
        gxe.ExpectTableRowCountToBeBetween(min_value=1, meta={"check": "empty"}),
        gxe.ExpectColumnValuesToNotBeNull(column="text", meta={"check": "empty"}),
        gxe.ExpectColumnValuesToMatchRegex(column="text", regex=r"\w", meta={"check": "empty"}),
        gxe.ExpectColumnValuesToBeBetween(column="chars", min_value=MIN_CHARS, meta={"check": "empty"}),
        gxe.ExpectColumnValuesToBeUnique(column="id", meta={"check": "duplicate"}),
        gxe.ExpectColumnProportionOfUniqueValuesToBeBetween(column="folded", min_value=SAME_TEXT, meta={"check": "duplicate"}),
        gxe.ExpectColumnValuesToBeBetween(column="chars", max_value=MAX_CHARS, meta={"check": "oversized"}),
    ]


def secrets(frame: Any) -> Iterable[data_checks.Row]:
    """Whether a chunk contains a secret; reports where, and never the secret itself."""
    return [data_checks.no_secret(frame, text="text", named="id")]


def live() -> list[Any]:
    """The expectations for live questions."""
    import great_expectations.expectations as gxe

    return [
        gxe.ExpectTableColumnsToMatchSet(column_set=["question"], exact_match=True, meta={"check": "schema"}),
        gxe.ExpectColumnValuesToNotBeNull(column="question", meta={"check": "schema"}),
        gxe.ExpectColumnValueLengthsToBeBetween(column="question", min_value=2, max_value=500, mostly=0.99, meta={"check": "questions"}),
        gxe.ExpectColumnValuesToMatchRegex(column="question", regex=r"\w", mostly=0.99, meta={"check": "questions"}),
        # The same question over and over comes from a stuck client, or a probe.
        gxe.ExpectColumnProportionOfUniqueValuesToBeBetween(column="question", min_value=0.02, meta={"check": "questions"}),
    ]
