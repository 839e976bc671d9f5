"""The model part: the embedder with all its bytes, and the pin of the language model that writes the answers."""

from typing import Any, Literal

import dagster as dg
from pydantic import Field

from dagster_lastgood import parts
from lastgood import settings as settings_

KEY = parts.key("helpdesk", "model")


class Models(dg.Config):
    """Which models."""

    embedder: Literal["wordllama", "wordllama-128", "minilm"] = Field(
        default="wordllama",
        description="wordllama: a table of words, the same bytes everywhere; -128 takes half of it. minilm: a small transformer, better, slower.",
    )
    answerer: dict[str, Any] = Field(
        default={}, description="Pin of a language model, see docs/rag.md; left out: sentences of the passages."
    )


@dg.asset(
    key=KEY,
    group_name="helpdesk",
    kinds={"safetensors"},
    owners=["team:helpdesk-on-call"],
    code_version=parts.code_version("services/helpdesk/models.py", "services/helpdesk/pins.py"),
    description="Embedder (weights and tokenizer) and the pinned language model.",
)
def model(context: dg.AssetExecutionContext, config: Models, settings: dg.ResourceParam[settings_.Settings]) -> dg.MaterializeResult[Any]:
    """Put the files together and store them."""
    import tempfile
    from pathlib import Path

    from lastgood.bundle import store as artifacts
    from services.helpdesk import models

    with tempfile.TemporaryDirectory() as scratch:
        meta = models.write(Path(scratch) / "model", embedder=config.embedder, answerer=config.answerer or models.EXTRACTIVE)
        stored = artifacts.Store(settings.store).put(Path(scratch) / "model", allow=artifacts.MODEL_FORMATS)
    part = artifacts.part(stored, name="model", media_type="application/vnd.lastgood.models", meta=meta)
    metadata = {"embedder": meta["embedder_name"], "dimensions": meta["dim"], "language model": meta["llm"]}
    return parts.result(context, part, provenance={"packages": models.packages(config.embedder)}, metadata=metadata)
