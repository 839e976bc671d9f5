"""What docs/rag.md shows as a whole service of one's own is one: its code runs as it stands there."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from lastgood.index import embedders
from lastgood.serving import runtime
from services.helpdesk import models, pins, prompting
from tests.services import samples

PAGE = samples.PROJECT / "docs" / "rag.md"


def blocks() -> list[str]:
    """The Python blocks of the page."""
    return re.findall(r"```python\n(.*?)```", PAGE.read_text("utf-8"), re.DOTALL)


def test_it_is_as_short_as_it_says() -> None:
    """Runtime and index together."""
    assert sum(len(block.splitlines()) for block in blocks()) < 60


def test_it_answers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Texts of one's own, indexed by its function, served by its class, in the home that the environment names."""
    monkeypatch.setenv("LASTGOOD_PROJECT", str(samples.PROJECT))
    monkeypatch.setenv("LASTGOOD_HOME", str(tmp_path / "home"))
    names: dict[str, Any] = {}
    for block in blocks():
        exec(block, names)  # noqa: S102  # the page's own code
    models.write(tmp_path / "model", embedder="wordllama-128")
    assert json.loads((tmp_path / "model" / pins.FILE).read_text())["answerer"]
    prompting.freeze(samples.PROJECT / "services/helpdesk/prompt", tmp_path / "prompt", replace={})
    texts = {"a": "The blue door leads to the garden of the house.", "b": "The cellar holds wine and old bicycles."}
    names["index"](texts, embedders.load(tmp_path / "model" / pins.EMBEDDER), tmp_path / "index")
    cls: type[runtime.Runtime] = names["Runtime"]
    assert issubclass(cls, runtime.Runtime)
    made = cls.load({name: tmp_path / name for name in ("model", "prompt", "index")}, {})
    (said,) = made.predict([cls.Request(question="Where does the blue door lead to?")])
    assert said["sources"][0]["id"] == "a"
    assert "garden" in said["answer"]
    assert len(made.predict([cls.Request.model_validate(row) for row in made.warm_up()])) == 1
