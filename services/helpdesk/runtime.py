"""How a bundle of this service is loaded and answers: the code that is frozen with the configuration."""

from __future__ import annotations

import functools
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar

import pydantic

from lastgood import artifacts, errors, prompts
from lastgood.index import base, embedders, words
from lastgood.index import catalog as indexes
from lastgood.llm import base as llm
from lastgood.llm import catalog as llms
from lastgood.serving import runtime

from . import pins, retrieval, signals

if TYPE_CHECKING:
    from lastgood.settings import Settings


class Question(pydantic.BaseModel):
    """One question."""

    model_config = pydantic.ConfigDict(extra="forbid", strict=True, frozen=True, use_attribute_docstrings=True)

    question: Annotated[str, pydantic.StringConstraints(min_length=1, max_length=2000, strip_whitespace=True)]
    """In words, up to 2,000 characters."""


class Runtime(runtime.Runtime):
    """Answers from the passages of its own index, with its own prompt and model, and says which."""

    Request = Question
    # Searching and waiting for a model both leave the interpreter lock.
    concurrency: ClassVar[int] = 4

    def __init__(
        self,
        *,
        reader: base.Reader,
        embedder: embedders.Embedder,
        prompt: prompts.Prompt,
        prompt_digest: str,
        model: llm.Model,
        options: retrieval.Options,
        directions: Callable[[], signals.Directions],
    ) -> None:
        self._reader = reader
        self._embedder = embedder
        self._prompt = prompt
        self._model = model
        self._options = options
        self._directions = functools.cache(directions)
        self._made_of = {"index": reader.snapshot.id, "prompt": prompt_digest}

    @classmethod
    def load(cls, parts: Mapping[str, Path], options: Mapping[str, Any]) -> Runtime:
        """Load embedder, prompt, index and model. Raises Damaged, NotAllowed (the index is of another embedder) or UsageError."""
        return cls.open(parts, options)

    @classmethod
    def open(cls, parts: Mapping[str, Path], options: Mapping[str, Any], *, settings: Settings | None = None) -> Runtime:
        """As `load`; *settings* say where the vector engine is, by default those of the environment."""
        try:
            checked = retrieval.Options.model_validate(dict(options))
        except pydantic.ValidationError as error:
            raise errors.UsageError(f"options of service 'helpdesk' are wrong: {error}; correct the named key") from error
        pinned = pins.read(parts["model"])
        embedder = embedders.load(pinned.embedder)
        return cls(
            reader=indexes.open_replica(parts["index"], embedder=embedder.digest, settings=settings),
            embedder=embedder,
            prompt=prompts.load(parts["prompt"]),
            prompt_digest=artifacts.digest_tree(parts["prompt"]).digest,
            model=llms.build(llm.parse(pinned.answerer), environ=os.environ, embed=embedder.embed),
            options=checked,
            directions=functools.partial(signals.directions, parts["index"]),
        )

    def predict(self, rows: Sequence[pydantic.BaseModel]) -> list[dict[str, Any]]:
        """For each row {"answer", "refused", "sources", "made_of"}; sources are passages, the best first."""
        return [self.answer(str(getattr(row, "question"))) for row in rows]  # noqa: B009  # the contract knows no fields

    def answer(self, question: str) -> dict[str, Any]:
        """One answer; `made_of` names the index and the prompt that it was really made of."""
        found = self.find(question)[: self._options.passages]
        passages = [llm.Passage(id=hit.row.id, text=hit.row.text, score=hit.score) for hit in found]
        values: dict[str, Any] = {
            "question": question,
            "passages": [{"id": hit.row.id, "title": _title(hit), "text": hit.row.text} for hit in found],
        }
        messages = [llm.Message(role=role, content=self._prompt.render(role, **values)) for role in ("system", "user")]
        said = self._model.answer(messages, passages=passages, question=question)
        sources = [{"id": hit.row.id, "title": _title(hit), "path": hit.row.meta.get("path")} for hit in found]
        return {"answer": said.text, "refused": said.refused, "sources": sources, "made_of": self._made_of}

    def features(self, rows: Sequence[pydantic.BaseModel]) -> dict[str, list[float]]:
        """Where the questions point and how near the index is to them, by name; see `signals`. Nothing is asked of the language model."""
        questions = [str(getattr(row, "question")) for row in rows]  # noqa: B009  # the contract knows no fields
        queries = {question: self._prompt.render("query", question=question) for question in dict.fromkeys(questions)}
        made = signals.of(
            list(queries.values()), reader=self._reader, embedder=self._embedder, directions=self._directions(), k=self._options.find
        )
        places = {question: place for place, question in enumerate(queries)}
        return {name: [values[places[question]] for question in questions] for name, values in made.items()}

    def find(self, question: str) -> list[base.Hit]:
        """The passages for *question*, best first."""
        query = self._prompt.render("query", question=question)
        return retrieval.search(query, reader=self._reader, embedder=self._embedder, options=self._options)

    def check_words(self, questions: Sequence[str]) -> float:
        """The share of *questions* for which words find anything. Raises NotAllowed if that is hardly any: hybrid would be half of itself."""
        if self._options.retrieval == "vector" or not self._reader.text_search:
            return 1.0
        way = words.of_spec(self._reader.snapshot.spec)
        return words.check_finds(questions, lambda question: self._reader.search_text(question, k=1), way=way)

    def warm_up(self) -> list[dict[str, Any]]:
        """A question that the documentation answers, and one that it does not."""
        return [{"question": "How do I add a field to a model?"}, {"question": "What is for lunch?"}]

    def label(self, outcome: Mapping[str, Any]) -> float | None:
        """1.0 if `helpful` is true, 0.0 if it is false."""
        helpful = outcome.get("helpful")
        if helpful is not None and not isinstance(helpful, bool):
            raise ValueError("'helpful' must be true or false")
        return None if helpful is None else float(helpful)

    def close(self) -> None:
        """Let go of the index and the model."""
        self._reader.close()
        self._model.close()


def _title(hit: base.Hit) -> str:
    """Title of the document and heading of the section."""
    names = (hit.row.meta.get("title"), hit.row.meta.get("heading"))
    return " / ".join(dict.fromkeys(str(name) for name in names if name))
