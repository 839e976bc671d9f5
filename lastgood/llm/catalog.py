"""From a pin to a model that is ready. Nothing is imported until it is used."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from lastgood.llm import base

if TYPE_CHECKING:
    from lastgood.llm.base import Embed
    from lastgood.llm.hosted import Hosted


def build(pin: base.Pin, *, environ: Mapping[str, str], embed: Embed | None = None) -> base.Model:
    """The model of *pin*; keys of hosted ones come from *environ*. Raises UsageError, NotFound or Damaged if it is not available."""
    if pin.provider in ("openai", "anthropic"):
        return hosted(pin, environ=environ)
    if pin.provider == "local":
        from lastgood.llm import local

        return local.Local(pin)
    from lastgood.llm import extractive

    return extractive.Extractive(pin, embed=embed)


def hosted(pin: base.Pin, *, environ: Mapping[str, str]) -> Hosted:
    """Like `build`, for a pin of a hosted model: `openai` or `anthropic`."""
    if pin.provider == "openai":
        from lastgood.llm import openai_compatible

        return openai_compatible.OpenAICompatible(pin, key=environ.get(openai_compatible.OpenAICompatible.key_name))
    from lastgood.llm import anthropic

    return anthropic.Anthropic(pin, key=environ.get(anthropic.Anthropic.key_name))
