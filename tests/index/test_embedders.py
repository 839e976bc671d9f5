"""Embedders: the same bytes for the same text, unit length, near for what is alike."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from lastgood import errors
from lastgood.index import embedders
from services.helpdesk import models, pins


@pytest.fixture(scope="module", params=["wordllama", "wordllama-128", "minilm"])
def folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model part with each of the embedders that helpdesk knows."""
    made = tmp_path_factory.mktemp("models") / "model"
    models.write(made, embedder=request.param)
    return made / pins.EMBEDDER


def test_a_text_has_one_vector_whatever_is_beside_it(folder: Path) -> None:
    """Of unit length; alone, in a batch, and from a second object."""
    texts = ["How do I add a field to a model?", "Sessions", "日本語 and 🦓", "word " * 2000]
    embedder = embedders.load(folder)
    together = embedder.embed(texts)
    assert together.dtype == np.float32
    assert together.shape == (4, embedder.dim)
    assert np.allclose(np.linalg.norm(together, axis=1), 1.0, atol=1e-6)
    again = embedders.load(folder)
    assert again.digest == embedder.digest
    for text, vector in zip(texts, together, strict=True):
        assert again.embed([text])[0].tobytes() == vector.tobytes()


def test_what_is_alike_is_near(folder: Path) -> None:
    """Nearer than what is about something else."""
    one, alike, other = embedders.load(folder).embed(["a database table", "tables in a database", "the moons of a planet"])
    assert one @ alike > one @ other


def test_nothing_is_like_nothing(folder: Path) -> None:
    """A text without words has no direction; no text at all has no rows."""
    embedder = embedders.load(folder)
    if embedder.about.kind == "static":
        assert not embedder.embed([""]).any()
    assert embedder.embed([]).shape == (0, embedder.dim)


def test_weights_that_are_damaged_do_not_load(tmp_path: Path) -> None:
    """Cut off, of another width, or under another name; and nothing is taken for an embedder that says it is none."""
    models.write(tmp_path / "model", embedder="wordllama")
    folder = tmp_path / "model" / pins.EMBEDDER
    good = (folder / "weights.safetensors").read_bytes()
    (folder / "weights.safetensors").write_bytes(good[:1000])
    with pytest.raises(errors.Damaged, match="build the model part again"):
        embedders.load(folder)
    (folder / "weights.safetensors").write_bytes(good)
    text = (folder / embedders.FILE).read_text()
    for wrong in (
        text.replace("256", "257", 1),
        text.replace("embedding.weight", "other"),
        "{}",
        "no json",
        text.replace("static", "pickle"),
    ):
        (folder / embedders.FILE).write_text(wrong)
        with pytest.raises(errors.Damaged):
            embedders.load(folder)
    (folder / embedders.FILE).unlink()
    with pytest.raises(errors.NotFound, match="does not contain an embedder"):
        embedders.load(folder)


def test_another_tokenizer_is_another_embedder(tmp_path: Path) -> None:
    """The digest covers all of it, so an index of one cannot be taken for one of the other."""
    models.write(tmp_path / "one", embedder="minilm")
    models.write(tmp_path / "two", embedder="minilm")
    file = tmp_path / "two" / pins.EMBEDDER / embedders.TOKENIZER
    file.write_text(file.read_text("utf-8").replace('"lowercase":true', '"lowercase":false'), "utf-8")
    one, two = (embedders.load(tmp_path / name / pins.EMBEDDER) for name in ("one", "two"))
    assert one.digest != two.digest


def test_files_that_are_not_there_are_named(tmp_path: Path) -> None:
    """With the remedy."""
    about = embedders.Description(kind="static", name="x", dim=2)
    with pytest.raises(errors.NotFound, match="install the package"):
        embedders.freeze(tmp_path / "e", about=about, tokenizer=tmp_path / "no", weights=tmp_path / "no")
    with pytest.raises(errors.UsageError, match="wordllama-128 or minilm"):
        models.write(tmp_path / "m", embedder="other")  # type: ignore[arg-type]
