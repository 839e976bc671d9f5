"""Finding passages: by meaning, by words, or by both."""

from __future__ import annotations

from typing import Literal

import pydantic

from lastgood.index import base, embedders, fuse

Way = Literal["hybrid", "vector", "text"]


class Options(pydantic.BaseModel):
    """`options` of service.yaml."""

    model_config = pydantic.ConfigDict(extra="forbid", strict=True, frozen=True, use_attribute_docstrings=True)

    retrieval: Way = "hybrid"
    find: int = pydantic.Field(default=10, ge=1, le=100)
    passages: int = pydantic.Field(default=3, ge=1, le=20)
    fuse: Literal["rank", "score"] = "rank"
    """How both searches become one list: by places, or by scores on one scale."""
    words_weight: float = pydantic.Field(default=0.5, ge=0, le=1)
    """Share of the words in `fuse: score`; the rest is of the meaning."""


def search(query: str, *, reader: base.Reader, embedder: embedders.Embedder, options: Options) -> list[base.Hit]:
    """The best `options.find` passages, best first."""
    by_score = options.retrieval == "hybrid" and options.fuse == "score"
    k = options.find * (fuse.DEPTH if by_score else 1)
    by_words = (
        reader.search_text(query, k=k) if options.retrieval != "vector" and (reader.text_search or options.retrieval == "text") else []
    )
    by_meaning = _by_meaning(query, reader=reader, embedder=embedder, k=k) if options.retrieval != "text" else []
    if by_score:
        return fuse.by_score(by_meaning, by_words, k=options.find, weights=(1 - options.words_weight, options.words_weight))
    if options.retrieval == "hybrid":
        return fuse.reciprocal_rank(by_meaning, by_words, k=k)
    return by_meaning or by_words


def _by_meaning(query: str, *, reader: base.Reader, embedder: embedders.Embedder, k: int) -> list[base.Hit]:
    (vector,) = embedder.embed([query])
    # A text without a single known token has no direction, so nothing is near it.
    return reader.search(vector, k=k) if vector.any() else []
