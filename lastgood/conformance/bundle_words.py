"""Whether word search finds anything in a bundle's index, tested before registration with the golden questions of its data part.

A search that never finds anything is silent: a wrong `text_search` disables half of a hybrid search, and nothing else shows it.
Golden questions are the lines of `questions.jsonl` with {"kind": "golden", "question"}; without any, without an index part or
without a replica of it in the engine there is nothing to test.

What does not belong here: how many must find something (`index.words.check_finds`), whether it is the right thing (evaluations).
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Mapping
from pathlib import Path

from lastgood import errors
from lastgood.index import catalog, words
from lastgood.index import snapshot as index_snapshot
from lastgood.settings import Settings

QUESTIONS = "questions.jsonl"


def check(parts: Mapping[str, Path], *, settings: Settings) -> list[str]:
    """Warnings. Raises NotAllowed, with the remedy, if word search finds hardly anything although the snapshot configures it.

    A snapshot without that configuration may belong to a service that never searches for words, so it only gets a warning.
    """
    asked = golden(parts["data"]) if "data" in parts else []
    if not asked or "index" not in parts or not (parts["index"] / index_snapshot.FILE).is_file():
        return []
    snapshot = index_snapshot.read(parts["index"])
    try:
        with contextlib.closing(catalog.connect(settings)) as engine, contextlib.closing(engine.open(snapshot.name)) as reader:
            if reader.text_search:
                words.check_finds(asked, lambda question: reader.search_text(question, k=1), way=words.of_spec(snapshot.spec))
    except (errors.NotFound, errors.Damaged):  # the bundle's own code answered without it, so it searches by other means
        return []
    except errors.NotAllowed as error:
        if words.KEY in snapshot.spec:
            raise
        return [str(error)]
    except errors.LastgoodError as error:
        return [f"could not check that a word search finds the golden questions: {error}"]
    return []


def golden(part: Path) -> list[str]:
    """The golden questions of the data part in folder *part*, in order; none if the file is absent or in another form."""
    try:
        lines = [json.loads(line) for line in (part / QUESTIONS).read_text("utf-8").split("\n") if line.strip()]
    except (OSError, ValueError):
        return []
    found = [one["question"] for one in lines if isinstance(one, dict) and one.get("kind") == "golden" and "question" in one]
    return [one for one in found if isinstance(one, str)]
