"""How a text becomes a vector: small models contained in the bundle, with weights and tokenizer.

    embedder.json    {"schema", "kind": "static" | "onnx", "dim", …}
    tokenizer.json   as the library `tokenizers` reads it
    weights.safetensors | model.onnx

The digest of such a folder is the embedder's name in the manifest; an index names the one it was built with, and a bundle
whose model and index name different ones is refused. Each text is embedded separately, so a vector does not depend on the
rest of the batch. `static` gives the same bytes on every machine; `onnx` does on one kind of machine.

What does not belong here: where the weights come from (a service's own code), hosted embedding models (not pinned by bytes).
"""

from __future__ import annotations

import abc
import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import pydantic

from lastgood import errors
from lastgood.bundle import store
from lastgood.system import files

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    Vectors = npt.NDArray[np.float32]

FILE, TOKENIZER = "embedder.json", "tokenizer.json"
WEIGHTS = {"static": "weights.safetensors", "onnx": "model.onnx"}
FORMATS = frozenset({".json", ".safetensors", ".onnx"})


class Description(pydantic.BaseModel):
    """The content of embedder.json."""

    model_config = pydantic.ConfigDict(frozen=True, extra="forbid", strict=True, use_attribute_docstrings=True)

    schema_: Literal["lastgood.embedder/v1"] = pydantic.Field(alias="schema", default="lastgood.embedder/v1")
    kind: Literal["static", "onnx"]
    """static: mean of a table's rows, one for each token. onnx: mean of a transformer's last layer."""
    name: str
    """A name for people."""
    dim: int = pydantic.Field(ge=1, le=16_000)
    """Numbers in a vector."""
    tensor: str | None = None
    """static: the table's name in weights.safetensors, (tokens, dim or more); of more columns the first are used."""
    max_tokens: int = pydantic.Field(default=256, ge=1, le=8192)
    """Maximum number of tokens read; the rest of a text is ignored."""


class Embedder(abc.ABC):
    """Vectors of unit length. `digest` is that of its folder."""

    def __init__(self, *, digest: str, about: Description) -> None:
        self.digest = digest
        self.about = about

    @property
    def dim(self) -> int:
        """Numbers in a vector."""
        return self.about.dim

    def embed(self, texts: Sequence[str]) -> Vectors:
        """float32, (texts, dim). A text without a single token gives zeros: it is similar to nothing."""
        import numpy as np

        found = np.zeros((len(texts), self.dim), dtype=np.float32)
        for row, text in zip(found, texts, strict=True):
            vector = self._vector(text)
            length = float(np.linalg.norm(vector))
            if length > 0:
                row[:] = vector / length
        return found

    @abc.abstractmethod
    def _vector(self, text: str) -> npt.NDArray[np.float64]:
        """(dim,), of any length."""


class _Static(Embedder):
    def __init__(self, folder: Path, *, digest: str, about: Description) -> None:
        super().__init__(digest=digest, about=about)
        import safetensors.numpy

        self._tokenizer = _tokenizer(folder, about)
        self._table = safetensors.numpy.load_file(folder / WEIGHTS["static"])[about.tensor or "weights"]
        if self._table.shape[1] < about.dim:
            raise ValueError(f"the table has {self._table.shape[1]} columns, but embedder.json states {about.dim}")
        self._table = self._table[:, : about.dim]

    def _vector(self, text: str) -> npt.NDArray[np.float64]:
        import numpy as np

        ids = self._tokenizer.encode(text, add_special_tokens=False).ids
        # float64, so that the order in which a library adds up does not show in the float32 result
        return self._table[ids].astype(np.float64).sum(axis=0)  # type: ignore[no-any-return]


class _Onnx(Embedder):
    def __init__(self, folder: Path, *, digest: str, about: Description) -> None:
        super().__init__(digest=digest, about=about)
        import onnxruntime

        self._tokenizer = _tokenizer(folder, about)
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 1  # more of them only compete with each other
        self._session = onnxruntime.InferenceSession(folder / WEIGHTS["onnx"], options, providers=["CPUExecutionProvider"])
        self._inputs = {one.name for one in self._session.get_inputs()}

    def _vector(self, text: str) -> npt.NDArray[np.float64]:
        import numpy as np

        ids = np.array([self._tokenizer.encode(text).ids], dtype=np.int64)
        given = {"input_ids": ids, "attention_mask": np.ones_like(ids), "token_type_ids": np.zeros_like(ids)}
        (hidden, *_) = self._session.run(None, {name: value for name, value in given.items() if name in self._inputs})
        return hidden[0].astype(np.float64).mean(axis=0)  # type: ignore[no-any-return]


def _tokenizer(folder: Path, about: Description) -> Any:
    import tokenizers

    found = tokenizers.Tokenizer.from_file(str(folder / TOKENIZER))
    found.no_padding()
    found.enable_truncation(about.max_tokens)
    return found


def load(folder: Path) -> Embedder:
    """The embedder in *folder*, verified by its content. Raises Damaged if it cannot be loaded, NotFound if there is none."""
    about = describe(folder)
    kinds: dict[str, type[_Static | _Onnx]] = {"static": _Static, "onnx": _Onnx}
    try:
        return kinds[about.kind](folder, digest=store.digest_tree(folder).digest, about=about)
    except ImportError as error:
        raise errors.Unavailable(
            f"embedder {about.name!r} cannot be loaded: {error}; install 'lastgood[embed]' or 'lastgood[minilm]'"
        ) from error
    except Exception as error:  # three libraries, each with errors of its own
        raise errors.Damaged(f"embedder {about.name!r} cannot be loaded: {error}; build the model part again") from error


def describe(folder: Path) -> Description:
    """The content of embedder.json. Raises NotFound or Damaged."""
    try:
        return Description.model_validate_json((folder / FILE).read_bytes())
    except OSError as error:
        raise errors.NotFound(f"{str(folder)!r} does not contain an embedder: {error.strerror}; build the model part again") from error
    except pydantic.ValidationError as error:
        raise errors.Damaged(f"{str(folder / FILE)!r} is invalid: {error}; build the model part again") from error


def freeze(out: Path, *, about: Description, tokenizer: Path, weights: Path) -> str:
    """Write the folder of an embedder from its files into the new or empty folder *out*; its digest. Raises NotFound or Damaged if it does not load."""
    files.new_folder(out)
    for source, name in ((tokenizer, TOKENIZER), (weights, WEIGHTS[about.kind])):
        if not source.is_file():
            raise errors.NotFound(f"{str(source)!r} does not exist; install the package that holds it")
        shutil.copyfile(source, out / name)
    text = json.dumps(about.model_dump(by_alias=True, exclude_none=True), sort_keys=True, indent=1)
    (out / FILE).write_text(text + "\n", "utf-8")
    return load(out).digest
