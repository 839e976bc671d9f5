"""The index part: every chunk of the corpus with its vector, as an immutable snapshot."""

from pathlib import Path

from dagster_lastgood import Written

CHANGES = ("same", "changed", "added", "removed", "embedded")
"""Of the rows, against the index that is stable."""


def index(out: Path, corpus: Path, model: Path, stable: Path | None) -> Written:
    """Rows and vectors in the store, and their replica in the vector engine, read back and compared."""
    from lastgood.index import embedders
    from services.helpdesk import build, pins

    built = build.build(corpus, embedder=embedders.load(model / pins.EMBEDDER), out=out, previous=stable)
    changes = {name: getattr(built, name) for name in CHANGES}
    shown = {"compared with": "the stable index" if stable else "nothing, none is stable"}
    return Written(
        meta=built.snapshot.meta(), provenance={"rows": changes}, metadata=shown | {f"rows/{name}": n for name, n in changes.items()}
    )
