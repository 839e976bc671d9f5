"""Adapters by name. Nothing is imported until it is used, so the core never loads a heavy library.

A name is one of the short ones below, or the dotted path of a user's own module with a `build` function.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from typing import Any, Literal

from lastgood import errors

LayerKind = Literal["infrastructure", "traffic", "registry", "index", "prompts", "answers"]

KNOWN: dict[str, dict[str, str]] = {
    "infrastructure": {"processes": "lastgood.layers.infrastructure.local.layer"},
    "traffic": {"envoy": "lastgood.layers.traffic.envoy.layer"},
    "registry": {"mlflow": "lastgood.layers.registry"},
    "index": {"index": "lastgood.layers.vector_index"},
    "prompts": {"mlflow": "lastgood.layers.prompts"},
    "answers": {"redis": "lastgood.layers.answer_cache"},
}


def load(kind: LayerKind, name: str) -> Callable[..., Any]:
    """The `build` function of adapter *name*: called as build(settings, service), for traffic also with the endpoints.

    Raises UsageError for an unknown name, a module that cannot be found, or one without `build`.
    """
    known = KNOWN[kind]
    target = known.get(name, name)
    if target == name and "." not in name:
        raise errors.UsageError(f"no {kind} layer {name!r}; use {', '.join(sorted(known))}, or the dotted path of your own module")
    try:
        module = importlib.import_module(target)
    except ModuleNotFoundError as error:
        raise errors.UsageError(f"{kind} layer {name!r} cannot be loaded: {error}; install what it needs, or correct the name") from error
    build = getattr(module, "build", None)
    if not callable(build):
        raise errors.UsageError(
            f"{kind} layer {name!r} has no function 'build'; see lastgood.layers.infrastructure.local.layer for an example"
        )
    found: Callable[..., Any] = build
    return found
