"""The model part: an embedder with all its bytes, and the language model that answers, by its pin.

model.json     {"schema": "helpdesk.model/v1", "answerer": pin}
embedder/      see lastgood.index.embedders
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lastgood import errors

SCHEMA = "helpdesk.model/v1"
FILE, EMBEDDER = "model.json", "embedder"


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Pins:
    """What the model part says. `answerer` is a pin in plain JSON, see lastgood.llm."""

    embedder: Path
    answerer: Mapping[str, Any]


def read(part: Path) -> Pins:
    """The pins of the model part in folder *part*. Raises Damaged."""
    try:
        said = json.loads((part / FILE).read_bytes())
        if said["schema"] != SCHEMA or not isinstance(said["answerer"], dict):
            raise ValueError(f"it is no {SCHEMA}")
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise errors.Damaged(f"{str(part / FILE)!r} does not say which models to use: {error}; build the model part again") from error
    return Pins(embedder=part / EMBEDDER, answerer=said["answerer"])


def write(part: Path, *, answerer: Mapping[str, Any]) -> None:
    """Write model.json beside the embedder that stands in *part* already."""
    text = json.dumps({"schema": SCHEMA, "answerer": dict(answerer)}, sort_keys=True, indent=1)
    (part / FILE).write_text(text + "\n", "utf-8")
