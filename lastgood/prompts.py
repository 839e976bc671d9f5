"""The old place of `lastgood.bundle.prompts`, for code frozen in bundles (`lastgood.runtime_api`). It stays indefinitely."""

from lastgood.bundle.prompts import FILE, Described, Prompt, describe, load

__all__ = ["FILE", "Described", "Prompt", "describe", "load"]
