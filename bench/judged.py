"""Collections with human judgements: documents, queries, and which documents answer which query. None is part of the project.

A folder holds one folder a collection, in one of two layouts:

    corpus.jsonl      {"_id", "text"} and maybe {"title"}, one document a line            (as BEIR writes them)
    queries.jsonl     {"_id", "text"}, one query a line
    qrels.tsv         or qrels/test.tsv: a head, then query, document and grade by tabs; a grade above 0 is relevant

    NAME.all          documents: `.I id`, then fields `.T` (title) and `.W` (text); others are left out   (Cranfield, CACM, CISI, MED)
    NAME.qry          queries in the same form; they are counted from 1, whatever their `.I`, because Cranfield's judgements do so
    NAME.rel          query and document by spaces, or query, 0 and document (as TREC writes them); a grade below 0 behind them is not relevant

Relevance is yes or no. Left out are documents without text, judgements of missing documents, and queries without any judgement.

What does not belong here: measuring with them (`index_judged`).
"""

from __future__ import annotations

import dataclasses
import json
import re
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

from lastgood import errors

REMEDY = (
    "give --collections a folder with one folder a collection in it, as BEIR writes them (corpus.jsonl, queries.jsonl, qrels.tsv) "
    "or in Cranfield's form (NAME.all, NAME.qry, NAME.rel)"
)


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Collection:
    """Texts of documents and queries by id, and for each query the ids of the documents that answer it, at least one."""

    name: str
    documents: Mapping[str, str]
    queries: Mapping[str, str]
    relevant: Mapping[str, frozenset[str]]


def read_all(folder: Path | None) -> list[Collection]:
    """The collections in *folder*, by name. Raises NotFound if there is none, Damaged for one that cannot be read."""
    if folder is None:
        raise errors.NotFound(f"no folder of judged collections was named; {REMEDY}")
    found = [one for place in sorted(folder.iterdir()) if (one := read(place)) is not None] if folder.is_dir() else []
    if not found:
        raise errors.NotFound(f"{str(folder)!r} holds no judged collections; {REMEDY}")
    return found


def read(folder: Path) -> Collection | None:
    """The collection in *folder*, None if it has neither layout. Raises Damaged."""
    files = {path.name.lower(): path for path in folder.iterdir()} if folder.is_dir() else {}
    try:
        if "corpus.jsonl" in files:
            made = _beir(folder)
        elif {".all", ".qry", ".rel"} <= {Path(name).suffix for name in files}:
            made = _cranfield({Path(name).suffix: path for name, path in files.items()}, name=folder.name)
        else:
            return None
    except (OSError, ValueError, KeyError, IndexError) as error:
        raise errors.Damaged(f"the collection in {str(folder)!r} cannot be read: {error!r}; {REMEDY}") from error
    if not made.relevant:
        raise errors.Damaged(f"no query of the collection in {str(folder)!r} has a judged document; {REMEDY}")
    return made


def _beir(folder: Path) -> Collection:
    documents = {one["_id"]: f"{one.get('title', '')}\n{one['text']}" for one in _lines(folder / "corpus.jsonl")}
    queries = {one["_id"]: one["text"] for one in _lines(folder / "queries.jsonl")}
    judged = folder / "qrels.tsv"
    lines = (judged if judged.is_file() else folder / "qrels" / "test.tsv").read_text("utf-8").splitlines()[1:]
    pairs = (line.split("\t") for line in lines)
    return _made(folder.name, documents, queries, ((query, document) for query, document, grade in pairs if float(grade) > 0))


def _lines(file: Path) -> Iterator[dict[str, str]]:
    return (json.loads(line) for line in file.read_text("utf-8").split("\n") if line.strip())


def _cranfield(files: Mapping[str, Path], *, name: str) -> Collection:
    queries = {str(number): text for number, (_, text) in enumerate(_fields(files[".qry"]), start=1)}
    rows = [line.split() for line in files[".rel"].read_text("latin-1").splitlines() if line.strip()]
    if all(row[1] == "0" for row in rows):  # no document is called 0
        rows = [[row[0], *row[2:]] for row in rows]
    pairs = ((_number(row[0]), _number(row[1])) for row in rows if len(row) < 3 or float(row[2]) >= 0)
    return _made(name, dict(_fields(files[".all"])), queries, pairs)


def _fields(file: Path) -> Iterator[tuple[str, str]]:
    """Id and text of each entry; a title is left out where the text begins with it."""
    for entry in re.split(r"^\.I\s+", file.read_text("latin-1").replace("\r", ""), flags=re.MULTILINE)[1:]:
        head, _, body = entry.partition("\n")
        parts = re.split(r"^\.([A-Z])[^\S\n]*$\n?", body, flags=re.MULTILINE)[1:]
        fields = {key: text.strip() for key, text in zip(parts[::2], parts[1::2], strict=True) if key in "TW"}
        title, text = fields.get("T", ""), fields.get("W", "")
        yield _number(head), text if text.startswith(title) else f"{title}\n{text}"


def _number(written: str) -> str:
    """One form of an id that has leading zeros in one file and none in another."""
    return written.strip().lstrip("0")


def _made(name: str, documents: Mapping[str, str], queries: Mapping[str, str], pairs: Iterable[tuple[str, str]]) -> Collection:
    there = {key: text.strip() for key, text in documents.items() if text.strip()}
    relevant: dict[str, set[str]] = {}
    for query, document in pairs:
        if document in there:
            relevant.setdefault(query, set()).add(document)
    return Collection(
        name=name,
        documents=there,
        queries={query: queries[query] for query in relevant},
        relevant={query: frozenset(found) for query, found in relevant.items()},
    )
