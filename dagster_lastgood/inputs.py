"""The inputs of a service's function: it requests them by the names of its parameters.

    def model(out: Path, data: Path, config: Asked) -> Written: ...

`out` is the folder to fill. `config`, annotated with a `dagster.Config`, is what a person may change for one run. `settings` are those of
lastgood, `stable` is the folder of the same part in the present stable bundle (None if there is none), `options` are those of
service.yaml as frozen by this run. Every other parameter is an asset of the service, by name, as the folder that this run made;
`facts` maps the same names to the facts in the manifest (the `meta` of `Written`).
"""

import dataclasses
import hashlib
import inspect
import typing
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import dagster as dg

from dagster_lastgood import part_assets, parts
from lastgood.settings import Settings

OUT, CONFIG, SETTINGS, STABLE, OPTIONS, FACTS = "out", "config", "settings", "stable", "options", "facts"
OURS = frozenset({OUT, CONFIG, SETTINGS, STABLE, OPTIONS, FACTS})


class NoConfig(dg.Config):
    """A configuration without anything to change."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Inputs:
    """The parameters of a function: `ours` are the names from OURS, `needs` the assets, `config` the class of its configuration."""

    ours: frozenset[str]
    needs: tuple[str, ...]
    config: type[dg.Config]

    def deps(self, service: str) -> list[dg.AssetKey]:
        """The assets that must exist before it is called."""
        return [parts.key(service, name) for name in (*self.needs, *(["config"] if OPTIONS in self.ours else []))]

    def made(self, context: dg.AssetExecutionContext, service: str) -> dict[str, parts.BuiltPart]:
        """The parts it needs, as made by this run, by asset. Raises Failure."""
        return {name: parts.made(context, service, name) for name in self.needs}

    def arguments(
        self, context: dg.AssetExecutionContext, service: str, made: Mapping[str, parts.BuiltPart], *, config: dg.Config, part: str = ""
    ) -> dict[str, Any]:
        """Its arguments apart from `out`; *part* is the part that it writes."""
        from lastgood.bundle import store as bundle_store

        settings: Settings = context.resources.settings
        store = bundle_store.Store(settings.store)
        known: dict[str, Callable[[], Any]] = {
            CONFIG: lambda: config,
            SETTINGS: lambda: settings,
            STABLE: lambda: part_assets.stable_part(settings, service, part),
            FACTS: lambda: {name: item.part.meta for name, item in made.items()},
            OPTIONS: lambda: parts.made(context, service, "config").part.meta["options"],
        }
        ours = {name: value() for name, value in known.items() if name in self.ours}
        return {name: store.path(item.part.digest) for name, item in made.items()} | ours


def inputs_of(function: Callable[..., Any]) -> Inputs:
    """The inputs of *function*. Raises TypeError for a `config` that is not a dagster.Config."""
    names = inspect.signature(function).parameters
    return Inputs(ours=OURS & names.keys(), needs=tuple(name for name in names if name not in OURS), config=_config_of(function))


def code_version(function: Callable[..., Any], files: Sequence[str]) -> str:
    """A version that changes with *files* (from the project folder), or, without any, with the file that defines *function*."""
    if files:
        return parts.code_version(*files)
    try:
        source = Path(inspect.getfile(function)).read_bytes()
    except (OSError, TypeError):
        return "1"
    return hashlib.sha256(source).hexdigest()[:12]


def named(function: Callable[..., Any]) -> str:
    """The name of *function* in error messages."""
    return getattr(function, "__qualname__", repr(function))


def _config_of(function: Callable[..., Any]) -> type[dg.Config]:
    """The class of its parameter `config`; one without fields if it has none."""
    if CONFIG not in inspect.signature(function).parameters:
        return NoConfig
    found = typing.get_type_hints(function).get(CONFIG)
    if not (isinstance(found, type) and issubclass(found, dg.Config)):
        raise TypeError(f"{named(function)} takes 'config', which is not annotated with a class made from dagster.Config; annotate it")
    return found
