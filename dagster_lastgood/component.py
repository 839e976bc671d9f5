"""Services as a Dagster component: one YAML block.

type: dagster_lastgood.ServiceComponent
attributes:
  service: tumour
  owners: [team:tumour-on-call]
  parts: {data: my_project.tumour.data, model: my_project.tumour.model}

Several services are a list of such blocks under `services`, or one component each, all but one of them with `shared: false`.
"""

import importlib
from collections.abc import Iterable
from typing import Any, Self

import dagster as dg
import pydantic
from pydantic import Field

from dagster_lastgood.definitions import shared_definitions
from dagster_lastgood.service import Service


class Declared(dg.Model, dg.Resolvable):
    """One service: its name, owners, and the functions that write its parts."""

    service: str = Field(description="Name of the service, which services/<name>/service.yaml of the project declares.")
    owners: list[str] = Field(default=[], description="Owners of its assets, like team:on-call.")
    parts: dict[str, str] = Field(
        description="For each part (data, model, prompt, index, …) the function that writes it, as module.function; see dagster_lastgood.written_parts."
    )
    evaluated: str = Field(default="model", description="The part whose function returns metrics.")
    expectations: str | None = Field(
        default=None, description="Function, as module.function, that returns Great Expectations on live traffic."
    )
    expected: dict[str, str] = Field(default={}, description="Asset checks that the expectations belong to: description by name.")

    def declared(self) -> Service:
        """The service, with its functions resolved. Raises ValueError, naming what is missing."""
        return Service(
            name=self.service,
            owners=self.owners,
            parts={name: function(dotted) for name, dotted in self.parts.items()},
            evaluated=self.evaluated,
            expectations=function(self.expectations) if self.expectations else None,
            expected=self.expected,
        )


class ServiceComponent(dg.Component, Declared):
    """Parts, bundle, release and drift of each service as assets, its gates as checks, and the jobs and sensors of lastgood."""

    service: str = Field(
        default="", description="Name of the service, if it is one; services/<name>/service.yaml of the project declares it."
    )
    parts: dict[str, str] = Field(
        default={},
        description="By part (data, model, prompt, index, …) the function that writes it, as module.function; see dagster_lastgood.written_parts.",
    )
    services: list[Declared] = Field(default=[], description="Several services, each with what else stands here: service, owners, parts, …")
    shared: bool = Field(
        default=True,
        description="Add the jobs, sensors and resources that all services share: true for exactly one component of a code location. It finds the "
        "services of the other components by itself.",
    )
    others: list[str] = Field(
        default=[],
        description="With shared: services of the code location that no component declares. Sensors show their releases and windows; the job "
        "retrain does not build them.",
    )

    @pydantic.model_validator(mode="after")
    def _one_or_several(self) -> Self:
        if bool(self.service) == bool(self.services):
            raise ValueError("a component declares either one 'service' or several 'services'; write one of the two")
        if bool(self.service) != bool(self.parts):
            raise ValueError("'service' and 'parts' belong together; give each of 'services' its own 'parts'")
        return self

    def all_declared(self) -> list[Service]:
        """The services of this component. Raises ValueError, naming what is missing."""
        return [one.declared() for one in (self.services or [self])]

    def build_defs(self, context: dg.ComponentLoadContext) -> dg.Definitions:
        """The Dagster definitions of the services."""
        mine = self.all_declared()
        own = [service.definitions() for service in mine]
        if not self.shared:
            return dg.Definitions.merge(*own)
        everywhere = context.component_tree.get_all_components(ServiceComponent)
        return dg.Definitions.merge(*own, shared_definitions(_each_once([*mine, *_of(everywhere), *map(_shown_only, self.others)])))


def function(dotted: str) -> Any:
    """The function *dotted* (module.function). Raises ValueError, naming what is missing."""
    module, _, name = dotted.rpartition(".")
    try:
        return getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError, ValueError) as error:
        raise ValueError(f"{dotted!r} cannot be found: {error}; write it as module.function, importable from the project") from error


def _of(components: Iterable[ServiceComponent]) -> list[Service]:
    return [service for component in components for service in component.all_declared()]


def _shown_only(name: str) -> Service:
    return Service(name=name, owners=[])


def _each_once(services: Iterable[Service]) -> list[Service]:
    """The first of each name: one declared by a component takes precedence over one that is only named."""
    found: dict[str, Service] = {}
    for service in services:
        found.setdefault(service.name, service)
    return list(found.values())
