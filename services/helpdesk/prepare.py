"""From documentation to corpus: the chunks that are searched and the questions that they answer.

chunks.jsonl      {"id", "meta", "text"}, sorted by id
questions.jsonl   {"answers", "kind", "question"}
corpus.json       what it is: name, version, licence, counts, digest of the documents

python -m services.helpdesk.prepare --source services/helpdesk/corpus/django-5.2 --version 5.2 --out data/helpdesk/5.2
"""

from __future__ import annotations

import argparse
import json
from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from lastgood import errors

from . import chunks, questions, sources

NAME, LICENCE = "Django documentation", "BSD-3-Clause"
SLICES = "services/helpdesk/corpus"
CHUNKS, QUESTIONS, CORPUS = "chunks.jsonl", "questions.jsonl", "corpus.json"


def build(source: Path, out: Path, *, version: str, sha256: str | None = None) -> dict[str, Any]:
    """Write the corpus of *source* (see `sources.read`) into the folder *out*; the content of corpus.json. Same input, same bytes."""
    documents = sources.read(source, sha256=sha256)
    sections = chunks.sections(documents)
    asked = questions.choose(sections)
    withheld = {name for one in asked for name in one.sections}
    made = {section.id: chunks.chunk(section, withheld=section.id in withheld) for section in sections}
    rows = sorted((one.to_json() for parts in made.values() for one in parts), key=lambda row: str(row["id"]))
    answers = {one: [part.id for section in one.sections for part in made[section]] for one in asked}
    described = {
        "name": NAME,
        "version": version,
        "licence": LICENCE,
        "documents": len(documents),
        "chunks": len(rows),
        "questions": dict(Counter(one.kind for one in asked)),
        "source_sha256": sources.digest(documents),
    }
    out.mkdir(parents=True, exist_ok=True)
    _write_lines(out / CHUNKS, rows)
    _write_lines(out / QUESTIONS, ({"question": one.question, "kind": one.kind, "answers": answers[one]} for one in asked))
    (out / CORPUS).write_text(json.dumps(described, sort_keys=True, indent=1) + "\n", "utf-8")
    return described


def slice_of(version: str, *, out: Path, project: Path) -> dict[str, Any]:
    """The corpus of the documentation that lies in the project, in *version* (`4.2`, `5.2`, `6.0`). Raises NotFound."""
    folder = project / SLICES / f"django-{version}"
    if not folder.is_dir():
        known = ", ".join(sorted(path.name.removeprefix("django-") for path in (project / SLICES).glob("django-*")))
        raise errors.NotFound(f"no documentation of Django {version!r} in {SLICES}; there is {known or 'none'}")
    return build(folder, out, version=version)


def _write_lines(file: Path, rows: Iterable[Mapping[str, Any]]) -> None:
    lines = (json.dumps(row, ensure_ascii=False, sort_keys=True, separators=(",", ":")) + "\n" for row in rows)
    file.write_text("".join(lines), "utf-8")


def main() -> None:
    """The DVC stage."""
    parser = argparse.ArgumentParser(
        prog="python -m services.helpdesk.prepare", description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--source", type=Path, required=True, help="folder, or source archive")
    parser.add_argument("--sha256", help="what an archive must have")
    parser.add_argument("--version", required=True)
    parser.add_argument("--out", type=Path, required=True)
    call = parser.parse_args()
    print(json.dumps(build(call.source, call.out, version=call.version, sha256=call.sha256)))


if __name__ == "__main__":
    main()
