"""From a pin to a model that is ready. Nothing is imported until it is asked for."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from lastgood.llm import base

if TYPE_CHECKING:
    from lastgood.llm.base import Embed


def build(pin: base.Pin, *, environ: Mapping[str, str], embed: Embed | None = None) -> base.Model:
    """The model of *pin*; keys of hosted ones come from *environ*. Raises UsageError, NotFound or Damaged if it cannot be had."""
    if pin.provider == "openai":
        from lastgood.llm import openai_compatible

        return openai_compatible.OpenAICompatible(pin, key=environ.get("OPENAI_API_KEY"))
    if pin.provider == "anthropic":
        from lastgood.llm import anthropic

        return anthropic.Anthropic(pin, key=environ.get("ANTHROPIC_API_KEY"))
    if pin.provider == "local":
        from lastgood.llm import local

        return local.Local(pin)
    from lastgood.llm import extractive

    return extractive.Extractive(pin, embed=embed)
