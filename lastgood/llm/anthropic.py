"""Models hosted by Anthropic, or a server with the same API (`base_url`)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from lastgood.llm import base, hosted


class Anthropic(hosted.Hosted):
    """See the module."""

    package, client = "anthropic", "Anthropic"
    key_name, address = "ANTHROPIC_API_KEY", "https://api.anthropic.com"

    def _once(self, messages: Sequence[base.Message], seconds: float) -> base.Answer:
        params = self.pin.params
        # The prompt's system text is a field of its own here, not a message.
        system = "\n\n".join(one.content for one in messages if one.role == "system")
        optional: dict[str, Any] = {"system": system} if system else {}
        if params.temperature is not None:
            optional["extra_body"] = {"temperature": params.temperature}
        with self._told():
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
