"""The model part: the embedder with all its bytes, and the pin of the language model that writes the answers."""

from pathlib import Path
from typing import Any, Literal

import dagster as dg
from pydantic import Field

from dagster_lastgood import Written

CODE = ["services/helpdesk/models.py", "services/helpdesk/pins.py"]


class Models(dg.Config):
    """Which models."""

    embedder: Literal["wordllama", "wordllama-128", "minilm"] = Field(
        default="wordllama",
        description="wordllama: a table of words, the same bytes everywhere; -128 takes half of it. minilm: a small transformer, better, slower.",
    )
    answerer: dict[str, Any] = Field(
        default={}, description="Pin of a language model, see docs/rag.md; left out: sentences of the passages."
    )


def model(out: Path, config: Models) -> Written:
    """Embedder (weights and tokenizer) and the pinned language model."""
    from services.helpdesk import models

    meta = models.write(out, embedder=config.embedder, answerer=config.answerer or models.EXTRACTIVE)
    shown = {"embedder": meta["embedder_name"], "dimensions": meta["dim"], "language model": meta["llm"]}
    return Written(meta=meta, provenance={"packages": models.packages(config.embedder)}, metadata=shown)
