"""The pin of a language model, and the contract for querying it.

A pin is in a bundle's model part. A hosted model's bytes cannot be frozen, only its name: so the name must be a dated one,
and it is compared with the model that the server reports.
"""

from __future__ import annotations

import abc
import dataclasses
import re
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal

import pydantic

from lastgood import errors
from lastgood.bundle import manifest

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    Embed = Callable[[Sequence[str]], npt.NDArray[np.float32]]
    """Texts to vectors of unit length, (texts, dim)."""

Provider = Literal["extractive", "local", "openai", "anthropic"]

_DATED = re.compile(r"(.*[-@])?(20\d{2}-\d{2}-\d{2}|20\d{6})$")
_MOVING = re.compile(r"(^|[-:@])(latest|preview|default)$")


class Params(pydantic.BaseModel):
    """Parameters of the query; those that a provider does not support are left out for it."""

    model_config = pydantic.ConfigDict(frozen=True, extra="forbid", strict=True, use_attribute_docstrings=True)

    temperature: float | None = pydantic.Field(default=None, ge=0, le=2)
    """None: the server's default; some models accept no other."""
    seed: int | None = None
    max_tokens: int = pydantic.Field(default=400, ge=1, le=32_000)
    """Maximum tokens of an answer."""
    try_s: float = pydantic.Field(default=20.0, gt=0, le=600)
    """Seconds for one attempt."""
    budget_s: float = pydantic.Field(default=30.0, gt=0, le=600)
    """Seconds for all attempts and the pauses between them."""
    retries: int = pydantic.Field(default=2, ge=0, le=10)
    """Attempts after the first, for errors that may be temporary (429, 5xx, no connection)."""
    max_sentences: int = pydantic.Field(default=3, ge=1, le=20)
    """extractive: sentences of an answer."""
    refuse_below: float = pydantic.Field(default=0.3, ge=0, le=1)
    """extractive: if no sentence is at least this near to the question (1 is the same), it is refused."""
    refusal: str = "I do not know."
    """The text of a refusal. A model's prompt must contain the same text for the refusal to be recognized."""


class Pin(pydantic.BaseModel):
    """The exact identity of a model."""

    model_config = pydantic.ConfigDict(frozen=True, extra="forbid", strict=True, use_attribute_docstrings=True)

    provider: Provider
    model: str = pydantic.Field(min_length=1, max_length=200)
    """openai, anthropic: a dated name. local: the file's name. extractive: any."""
    base_url: str | None = pydantic.Field(default=None, pattern=r"^https?://")
    """A private server with the provider's API."""
    sha256: str | None = pydantic.Field(default=None, pattern=r"^[0-9a-f]{64}$")
    """local: the file's digest."""
    params: Params = Params()

    @pydantic.model_validator(mode="after")
    def _exact(self) -> Pin:
        hosted = self.provider in ("openai", "anthropic")
        if hosted and (_MOVING.search(self.model) or not (_DATED.match(self.model) or self.base_url)):
            raise ValueError(f"{self.model!r} can change without notice; name a dated model, such as {_EXAMPLE[self.provider]}")
        if self.provider == "local" and self.sha256 is None:
            raise ValueError("a local model needs its file's 'sha256'; add it")
        return self

    @property
    def digest(self) -> str:
        """`sha256:` and the digest of the pinned content."""
        return manifest.sha256(manifest.canonical(self.model_dump(mode="json", exclude_none=True)))

    @property
    def dated(self) -> bool:
        """Whether the name identifies a version."""
        return _DATED.match(self.model) is not None


_EXAMPLE = {"openai": "gpt-5-2025-08-07", "anthropic": "claude-opus-4-5-20251101"}


def parse(value: Mapping[str, Any]) -> Pin:
    """The pin described by *value* (plain JSON). Raises UsageError."""
    try:
        return Pin.model_validate(dict(value))
    except pydantic.ValidationError as error:
        told = "; ".join(f"{'.'.join(map(str, one['loc'])) or 'pin'}: {one['msg']}" for one in error.errors())
        raise errors.UsageError(f"the pin of the language model is invalid: {told}; correct it in the model part") from error


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Message:
    """One message of a conversation."""

    role: Literal["system", "user", "assistant"]
    content: str


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Passage:
    """A text found for the question."""

    id: str
    text: str
    score: float


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """An answer. `model` is the one that the server reports; tokens are None if they were not counted."""

    text: str
    refused: bool
    model: str
    tokens_in: int | None = None
    tokens_out: int | None = None
    fingerprint: str | None = None


class Model(abc.ABC):
    """A language model, ready. Safe for several threads.

    Raises Unavailable (no connection, too slow, too many requests, 5xx; may be retried), NotFound (the model is gone),
    NotAllowed (the key is refused), Damaged (an invalid answer, or one from another model than the pinned one).
    """

    def __init__(self, pin: Pin) -> None:
        self.pin = pin

    @abc.abstractmethod
    def answer(self, messages: Sequence[Message], *, passages: Sequence[Passage], question: str) -> Answer:
        """An answer to *messages*; *passages* and *question* are what they were made from, for models that read no prompt."""

    def close(self) -> None:  # noqa: B027  # most hold nothing
        """Close connections and free memory."""

    def _refused(self, text: str) -> bool:
        """Whether *text* is the refusal specified in the prompt."""
        return self.pin.params.refusal.rstrip(".").lower() in text.lower()


def check_model(pin: Pin, said: str | None) -> str:
    """The model that the server reports, if it is the pinned one. Raises Damaged for another one, where the pin is dated."""
    if said and pin.dated and said != pin.model:
        raise errors.Damaged(
            f"the server answered with model {said!r}, but the bundle pins {pin.model!r}; remove that server, or pin the model that it serves"
        )
    return said or pin.model
