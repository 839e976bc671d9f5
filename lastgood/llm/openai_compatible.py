"""Models behind an API like OpenAI's: OpenAI itself, or a private server (`base_url`)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from lastgood.llm import base, hosted


class OpenAICompatible(hosted.Hosted):
    """See the module."""

    package, client = "openai", "OpenAI"
    key_name, address = "OPENAI_API_KEY", "https://api.openai.com/v1"

    def _once(self, messages: Sequence[base.Message], seconds: float) -> base.Answer:
        params = self.pin.params
        wanted: dict[str, Any] = {"temperature": params.temperature, "seed": params.seed}
        with self._told():
            said = self._client.chat.completions.create(
                model=self.pin.model,
                messages=[{"role": one.role, "content": one.content} for one in messages],
                # Older private servers support only the old name of the limit.
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


def _first(said: Any) -> Any:
    """The text of the first choice; None in anything that does not have the form of an answer."""
    choices = getattr(said, "choices", None) or [None]
    return getattr(getattr(choices[0], "message", None), "content", None)
