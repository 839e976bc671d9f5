"""A service as a Dagster component: one YAML block.

type: dagster_lastgood.ServiceComponent
attributes:
  service: tumour
  owners: [team:tumour-on-call]
  parts: {data: my_project.tumour.data, model: my_project.tumour.model}
"""

import importlib
from typing import Any

import dagster as dg
from pydantic import Field

from dagster_lastgood import hooks, resources
from dagster_lastgood.definitions import build_job, shared_definitions
from dagster_lastgood.service import Service


class ServiceComponent(dg.Component, dg.Model, dg.Resolvable):
    """Parts, bundle, release and drift of one service as assets, its gates as checks, and the jobs and sensors of lastgood."""

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
    shared: bool = Field(
        default=True,
        description="Add the jobs, sensors and resources that all services share: true for exactly one component of a code location.",
    )
    others: list[str] = Field(
        default=[],
        description="With shared: the other services of the code location. Sensors show their releases and windows; their expectations are not "
        "evaluated on their own, and the job retrain does not build them: for that, pass all services to build_definitions.",
    )

    def build_defs(self, context: dg.ComponentLoadContext) -> dg.Definitions:
        """What Dagster shows of it."""
        made = Service.written(
            self.service,
            owners=self.owners,
            parts={name: function(dotted) for name, dotted in self.parts.items()},
            evaluated=self.evaluated,
            expectations=function(self.expectations) if self.expectations else None,
            expected=self.expected,
        )
        own = made.definitions()
        definitions = dg.Definitions(
            assets=[hooks.closing_mlflow_run(asset) for asset in own.assets or ()], asset_checks=own.asset_checks, jobs=own.jobs
        )
        if not self.shared:
            return definitions
        services = [made, *(Service(name=name, owners=[]) for name in self.others)]
        shared = shared_definitions(services, builds=lambda name: build_job(whole, services, name))
        whole = dg.Definitions.merge(definitions, shared, dg.Definitions(resources=resources.all_resources()))
        return whole


def function(dotted: str) -> Any:
    """The function *dotted* (module.function). Raises ValueError with what is missing."""
    module, _, name = dotted.rpartition(".")
    try:
        return getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError, ValueError) as error:
        raise ValueError(f"{dotted!r} cannot be found: {error}; write it as module.function, importable from the project") from error
