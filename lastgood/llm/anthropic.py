"""Models hosted by Anthropic, or a server that speaks like theirs (`base_url`)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from lastgood import errors
from lastgood.llm import base, hosted

KEY = "ANTHROPIC_API_KEY"


class Anthropic(base.Model):
    """See the module. *key* may be missing for a server of one's own."""

    def __init__(self, pin: base.Pin, *, key: str | None) -> None:
        super().__init__(pin)
        if key is None and pin.base_url is None:
            raise errors.NotAllowed(f"{KEY} is not set; set it where the workers run")
        self._sdk, self._client = client(pin, key=key)

    def answer(self, messages: Sequence[base.Message], *, passages: Sequence[base.Passage], question: str) -> base.Answer:
        return hosted.ask(lambda seconds: self._once(messages, seconds), self.pin.params)

    def _once(self, messages: Sequence[base.Message], seconds: float) -> base.Answer:
        params = self.pin.params
        # What the prompt calls system is a field of its own here, and no message.
        system = "\n\n".join(one.content for one in messages if one.role == "system")
        optional: dict[str, Any] = {"system": system} if system else {}
        if params.temperature is not None:
            optional["extra_body"] = {"temperature": params.temperature}
        with hosted.told(self._sdk, self.pin, key_name=KEY):
            said = self._client.messages.create(
                model=self.pin.model,
                max_tokens=params.max_tokens,
                messages=[{"role": one.role, "content": one.content} for one in messages if one.role != "system"],
                timeout=seconds,
                **optional,
            )
        blocks = getattr(said, "content", None) or []
        text = hosted.checked_text("".join(getattr(one, "text", None) or "" for one in blocks), self.pin)
        usage = getattr(said, "usage", None)
        return base.Answer(
            text=text,
            refused=self._refused(text),
            model=base.check_model(self.pin, getattr(said, "model", None)),
            tokens_in=getattr(usage, "input_tokens", None),
            tokens_out=getattr(usage, "output_tokens", None),
        )

    def close(self) -> None:
        self._client.close()


def client(pin: base.Pin, *, key: str | None) -> tuple[Any, Any]:
    """The official package and a client that tries once. Raises UsageError if the package is missing."""
    try:
        import anthropic
    except ImportError as error:
        raise errors.UsageError(
            f"the bundle pins an Anthropic model, but anthropic is not installed ({error}); install 'lastgood[anthropic]'"
        ) from error
    base_url = pin.base_url or "https://api.anthropic.com"
    return anthropic, anthropic.Anthropic(api_key=key or "none", base_url=base_url, max_retries=0)
