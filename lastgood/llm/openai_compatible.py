"""Models behind an API like OpenAI's: OpenAI itself, or a server of one's own (`base_url`)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from lastgood import errors
from lastgood.llm import base, hosted

KEY = "OPENAI_API_KEY"


class OpenAICompatible(base.Model):
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
        wanted: dict[str, Any] = {"temperature": params.temperature, "seed": params.seed}
        with hosted.told(self._sdk, self.pin, key_name=KEY):
            said = self._client.chat.completions.create(
                model=self.pin.model,
                messages=[{"role": one.role, "content": one.content} for one in messages],
                # Older servers of one's own know only the old name of the limit.
                **{"max_tokens" if self.pin.base_url else "max_completion_tokens": params.max_tokens},
                **{name: value for name, value in wanted.items() if value is not None},
                timeout=seconds,
            )
        text = hosted.checked_text(_first(said), self.pin)
        usage = getattr(said, "usage", None)
        return base.Answer(
            text=text,
            refused=self._refused(text),
            model=base.check_model(self.pin, getattr(said, "model", None)),
            tokens_in=getattr(usage, "prompt_tokens", None),
            tokens_out=getattr(usage, "completion_tokens", None),
            fingerprint=getattr(said, "system_fingerprint", None),
        )

    def close(self) -> None:
        self._client.close()


def client(pin: base.Pin, *, key: str | None) -> tuple[Any, Any]:
    """The official package and a client that tries once. Raises UsageError if the package is missing."""
    try:
        import openai
    except ImportError as error:
        raise errors.UsageError(
            f"the bundle pins an OpenAI model, but openai is not installed ({error}); install 'lastgood[openai]'"
        ) from error
    base_url = pin.base_url or "https://api.openai.com/v1"
    return openai, openai.OpenAI(api_key=key or "none", base_url=base_url, max_retries=0)


def _first(said: Any) -> Any:
    """The text of the first choice; None in whatever is not built like an answer."""
    choices = getattr(said, "choices", None) or [None]
    return getattr(getattr(choices[0], "message", None), "content", None)
