"""What live questions are held beside: the headings that the corpus withholds, asked as often as one another.

What does not belong here: what is watched of a question (`signals`), and what counts as drift (`service.yaml`).
"""

from __future__ import annotations

import random
from pathlib import Path

import pyarrow as pa

from . import evaluate

TIME = "at"
KIND = "title"
"""What users type who know what it is called; questions in whole sentences are another kind, and would be drift."""
ROWS = 2000
EVERY_S = 30.0


def reference(questions: Path) -> pa.Table:
    """ROWS questions, one every EVERY_S seconds, drawn from those of KIND in the file *questions* (questions.jsonl); the same each time."""
    draw = random.Random(1)  # noqa: S311  # the order is no secret
    known = [str(one["question"]) for one in evaluate.read_questions(questions) if one["kind"] == KIND]
    asked = draw.choices(known, k=ROWS) if known else []
    return pa.table({TIME: [EVERY_S * number for number in range(len(asked))], "question": pa.array(asked, pa.string())})
