"""The cost of building a snapshot, how much of it is verification, and what reusing vectors of the previous one saves."""

from __future__ import annotations

import json
import shutil
import tempfile
from pathlib import Path

from bench import index_rows, measure
from bench.table import Row, Table
from lastgood.bundle import store
from lastgood.index import base, embedders, lancedb
from lastgood.index import snapshot as index_snapshot
from lastgood.system import files
from services.helpdesk import build, models, pins, prepare

DEEP_S = 2.0
"""Promised for 100,000 rows."""
ROOT = Path(__file__).resolve().parent.parent


def table(data: index_rows.Data, folder: Path, *, words: str) -> Table:
    """The part, its replica in LanceDB, and each check of it."""
    engine = lancedb.LanceIndex(folder / "replicas")
    part = folder / "part"
    folder.mkdir()
    spec = {"metric": "cosine"}
    part_ms = measure.timed_ms(lambda: index_snapshot.write(data.a.rows, data.a.vectors, part, embedder=index_rows.EMBEDDER, spec=spec))
    replica_ms = measure.timed_ms(lambda: engine.build(part))
    snapshot = index_snapshot.read(part)
    digest_ms = _digest_ms(part)
    place = engine.root / snapshot.name
    read_ms = measure.timed_ms(lambda: base.check_rows(lancedb._read_back(place / "lance", snapshot), snapshot, what="the replica"))
    files_ms = measure.timed_ms(lambda: store.digest_tree(place))
    deep_ms = measure.timed_ms(lambda: engine.verify(snapshot.name, deep=True))
    quick = measure.spread([measure.timed_ms(lambda: engine.verify(snapshot.name, deep=False)) for _ in range(20)])
    opened = measure.spread([measure.timed_ms(lambda: engine.open(snapshot.name).close()) for _ in range(20)])
    whole = part_ms + replica_ms
    rows = [
        Row(what="part: rows and vectors in the store's form", unit="s", ours=part_ms / 1000),
        Row(what="replica: written, indexed, read back, synced", unit="s", ours=replica_ms / 1000),
        Row(what="digest of the rows, once", unit="s", ours=digest_ms / 1000),
        Row(what="  share of the build", unit="%", ours=100 * digest_ms / whole, below=10),
        Row(what="all proof in a build: digest, rows read back and digested again, files digested", unit="%",
            ours=100 * (digest_ms + read_ms + files_ms) / whole),
        Row(what="deep verify: every row and every file", unit="s", ours=deep_ms / 1000, below=DEEP_S if len(data.a.rows) <= 100_000 else None),
        Row(what="verify at first sight", unit="ms", ours=quick.p50, spread=quick),
        Row(what="open", unit="ms", ours=opened.p50, spread=opened),
    ]  # fmt: skip
    files.discard(folder)
    note = (
        f"texts of some {index_rows.LENGTH} characters from the Django documentation, vectors drawn in clusters; nothing is embedded here."
    )
    return Table(title=f"Build of one snapshot of {words}, LanceDB", rows=rows, notes=[note])


def _digest_ms(part: Path) -> float:
    packed = index_snapshot.read_packed(part)
    return measure.timed_ms(lambda: index_snapshot.rows_digest(packed, count=len(packed)))


def incremental(*, quick: bool) -> Table:
    """The helpdesk's own build, from scratch and from a snapshot in which nine texts of ten are the same."""
    rows = []
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        prepare.slice_of("5.2", out=folder / "whole", project=ROOT)
        sizes: dict[models.Name, int | None] = {"wordllama": 100 if quick else None, "minilm": 20 if quick else 600}
        for name, count in sizes.items():
            rows += _incremental(folder / name, folder / "whole", name=name, count=count)
    notes = [
        "part: chunks read, embedded, digested, written; the replica is always built from nothing, so that equal ids answer alike.",
        "wordllama looks tokens up in a table, so there is little to save; a model that computes is where taking over pays.",
    ]
    return Table(
        title="A tenth of the texts changed: built from the last snapshot, and from nothing", ours="from the last", rows=rows, notes=notes
    )


def _incremental(folder: Path, whole: Path, *, name: models.Name, count: int | None) -> list[Row]:
    a, b = _corpora(folder, whole, count=count)
    models.write(folder / "model", embedder=name)
    embedder = embedders.load(folder / "model" / pins.EMBEDDER)
    engine = lancedb.LanceIndex(folder / "replicas")
    build.build(a, embedder=embedder, out=folder / "before")
    fresh_ms = measure.timed_ms(lambda: build.build(b, embedder=embedder, out=folder / "fresh"))
    taken_ms = measure.timed_ms(lambda: build.build(b, embedder=embedder, out=folder / "taken", previous=folder / "before"))
    assert index_snapshot.read(folder / "fresh").id == index_snapshot.read(folder / "taken").id
    replica_ms = measure.timed_ms(lambda: engine.build(folder / "taken"))
    rows = index_snapshot.read(folder / "taken").rows
    return [
        Row(what=f"{name}, {rows:,} rows: part", unit="s", ours=taken_ms / 1000, peers={"from nothing": fresh_ms / 1000}),
        Row(
            what=f"{name}, {rows:,} rows: part and replica",
            unit="s",
            ours=(taken_ms + replica_ms) / 1000,
            peers={"from nothing": (fresh_ms + replica_ms) / 1000},
        ),
    ]


def _corpora(folder: Path, whole: Path, *, count: int | None) -> tuple[Path, Path]:
    """The first *count* chunks, and the same with every tenth text changed."""
    lines = [json.loads(line) for line in (whole / prepare.CHUNKS).read_text("utf-8").splitlines()[:count]]
    changed = [
        {**row, "text": f"{row['text']} rewritten"} if number % index_rows.CHANGED_EVERY == 0 else row for number, row in enumerate(lines)
    ]
    found = []
    for name, rows in (("a", lines), ("b", changed)):
        (folder / name).mkdir(parents=True)
        (folder / name / prepare.CHUNKS).write_text("".join(json.dumps(row) + "\n" for row in rows), "utf-8")
        shutil.copy(whole / prepare.CORPUS, folder / name / prepare.CORPUS)
        found.append(folder / name)
    return found[0], found[1]
