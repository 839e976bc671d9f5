"""The pin of a language model, and the contract by which it is asked.

A pin stands in a bundle's model part. A hosted model's bytes cannot be frozen, only its name: so the name must be a dated one,
and what the server says that it used is compared with it.
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
    """How the model is asked; what a provider does not know of is left out for it."""

    model_config = pydantic.ConfigDict(frozen=True, extra="forbid", strict=True, use_attribute_docstrings=True)

    temperature: float | None = pydantic.Field(default=None, ge=0, le=2)
    """None: the server's own; some models take no other."""
    seed: int | None = None
    max_tokens: int = pydantic.Field(default=400, ge=1, le=32_000)
    """Most tokens of an answer."""
    try_s: float = pydantic.Field(default=20.0, gt=0, le=600)
    """Seconds for one attempt."""
    budget_s: float = pydantic.Field(default=30.0, gt=0, le=600)
    """Seconds for all attempts and the pauses between them."""
    retries: int = pydantic.Field(default=2, ge=0, le=10)
    """Attempts after the first, for answers that may be better the next time (429, 5xx, no connection)."""
    max_sentences: int = pydantic.Field(default=3, ge=1, le=20)
    """extractive: sentences of an answer."""
    refuse_below: float = pydantic.Field(default=0.3, ge=0, le=1)
    """extractive: if no sentence is as near as this to the question (1 is the same), it is refused."""
    refusal: str = "I do not know."
    """What a refusal says. A model must have been told the same words in its prompt to be recognised by them."""


class Pin(pydantic.BaseModel):
    """Which model, exactly."""

    model_config = pydantic.ConfigDict(frozen=True, extra="forbid", strict=True, use_attribute_docstrings=True)

    provider: Provider
    model: str = pydantic.Field(min_length=1, max_length=200)
    """openai, anthropic: a dated name. local: the file's name. extractive: any."""
    base_url: str | None = pydantic.Field(default=None, pattern=r"^https?://")
    """A server of one's own that speaks like the provider's."""
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
        """`sha256:` and the digest of what is pinned."""
        return manifest.sha256(manifest.canonical(self.model_dump(mode="json", exclude_none=True)))

    @property
    def dated(self) -> bool:
        """Whether the name says which version it is."""
        return _DATED.match(self.model) is not None


_EXAMPLE = {"openai": "gpt-5-2025-08-07", "anthropic": "claude-opus-4-5-20251101"}


def parse(value: Mapping[str, Any]) -> Pin:
    """The pin that *value* (plain JSON) describes. Raises UsageError."""
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
    """A text that was found for the question."""

    id: str
    text: str
    score: float


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """What was answered. `model` is what the server says that it used; tokens are None where nobody counted them."""

    text: str
    refused: bool
    model: str
    tokens_in: int | None = None
    tokens_out: int | None = None
    fingerprint: str | None = None


class Model(abc.ABC):
    """A language model, ready. Safe for several threads.

    Raises Unavailable (no connection, too slow, too many requests, 5xx; may be tried again), NotFound (the model is gone),
    NotAllowed (the key is refused), Damaged (an answer that is none, or of another model than the pinned one).
    """

    def __init__(self, pin: Pin) -> None:
        self.pin = pin

    @abc.abstractmethod
    def answer(self, messages: Sequence[Message], *, passages: Sequence[Passage], question: str) -> Answer:
        """An answer to *messages*; *passages* and *question* are what they were made of, for models that read no prompt."""

    def close(self) -> None:  # noqa: B027  # most hold nothing
        """Close connections and free memory."""

    def _refused(self, text: str) -> bool:
        """Whether *text* is the refusal that the prompt asks for."""
        return self.pin.params.refusal.rstrip(".").lower() in text.lower()


def check_model(pin: Pin, said: str | None) -> str:
    """What the server says that it used, if that is the pinned model. Raises Damaged for another one, where the pin is dated."""
    if said and pin.dated and said != pin.model:
        raise errors.Damaged(
            f"the server answered with model {said!r}, but the bundle pins {pin.model!r}; remove that server, or pin the model that it serves"
        )
    return said or pin.model
