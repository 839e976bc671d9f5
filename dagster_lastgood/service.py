"""One service in a code location: its parts and bundle, its release, its live traffic, the checks of all of them, its build job."""

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path

import dagster as dg

from dagster_lastgood import (
    automation,
    drift_assets,
    evaluations,
    gate_checks,
    hooks,
    live_checks,
    part_assets,
    project,
    written_parts,
)


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Service:
    """What `build_definitions` needs of a service: usually its name, its owners, and the functions that write its `parts`.

    `parts` are functions, or `Part`s where a function alone is not enough, by the name of their asset; configuration, environment and
    bundle are added. `evaluated` names the part that returns metrics; `evaluation` is a function that evaluates all parts together, if
    there is one (`evaluations`). `on_bundle` are metadata entries that the bundle shows too, each as the asset and its entry.
    `source` is the asset whose new versions rebuild all parts, beginning with the part data. `checks` are the service's own checks.
    `expectations` returns what is expected of requests (Great Expectations), each with `meta={"check": name}`; `expected` describes these
    checks by name. `build` is the name of the build job, by default `build_<name>`.
    `made` are the parts and the bundle of a service that defines each as an asset of its own, instead of `parts`; it has a build job only
    if `build` names one.
    """

    name: str
    owners: Sequence[str]
    parts: Mapping[str, written_parts.Write | written_parts.Part] = dataclasses.field(default_factory=dict)
    evaluated: str = "model"
    evaluation: evaluations.Measure | evaluations.Evaluation | None = None
    on_bundle: Mapping[str, tuple[str, str]] = dataclasses.field(default_factory=dict)
    made: Sequence[dg.AssetsDefinition] = ()
    build: str = ""
    description: str = ""
    source: dg.AssetsDefinition | None = None
    checks: Sequence[dg.AssetChecksDefinition] = ()
    expectations: live_checks.Expectations | None = None
    expected: Mapping[str, str] = dataclasses.field(default_factory=dict)

    @property
    def job(self) -> str:
        """The name of its build job; empty if it has none."""
        return self.build or (f"build_{self.name}" if self.parts else "")

    def assets(self) -> list[dg.AssetsDefinition]:
        """The assets made by the build job: the parts, their evaluation and the bundle."""
        made = [*self._written(), *self.made]
        return automation.rebuilt(self.name, made) if self.source else made

    def definitions(self) -> dg.Definitions:
        """Its assets, checks and build job; jobs and sensors shared by all services come with `build_definitions`."""
        made = [hooks.closing_mlflow_run(asset) for asset in self.assets()]
        shown = [part_assets.release(self.name, owners=self.owners), drift_assets.drift(self.name, owners=self.owners)]
        sources = [self.source] if self.source else []
        return dg.Definitions(assets=[*sources, *made, *shown], asset_checks=self._checks(), jobs=self._jobs(made))

    def _written(self) -> list[dg.AssetsDefinition]:
        if not self.parts:
            return []
        made = [
            *(self._part(asset, written_parts.part_of(write)) for asset, write in self.parts.items()),
            part_assets.config(self.name, owners=self.owners, code=_code(self.name)),
            part_assets.environment(self.name, owners=self.owners),
        ]
        names = [asset.key.path[-1] for asset in made]
        if self.evaluation is not None:
            made.append(evaluations.evaluation(self.name, self.evaluation, owners=self.owners))
        return [*made, part_assets.bundle(self.name, names, owners=self.owners, evaluated=self._scored(), repeated=self.on_bundle)]

    def _part(self, asset: str, declared: written_parts.Part) -> dg.AssetsDefinition:
        """The asset of one part; the part data depends on the source, if there is one."""
        of_source = self.source is not None and (declared.name or asset) == "data"
        deps = [automation.key(self.name)] if of_source else []
        return written_parts.part(self.name, asset, declared, owners=self.owners, deps=deps)

    def _scored(self) -> str | None:
        """The asset that holds the offline evaluation."""
        if self.evaluation is not None:
            return evaluations.NAME
        return self.evaluated if self.evaluated in self.parts else None

    def _checks(self) -> list[dg.AssetChecksDefinition]:
        scored = self._scored()
        checks = [part_assets.verifies(self.name)] if self.parts else []
        if scored is not None:
            checks.append(part_assets.limits(self.name, of=scored))
        checks += [*self.checks, gate_checks.checks(self.name)]
        if self.expectations is not None:
            checks.append(live_checks.checks(self.name, self.expected, suite=self.expectations))
        return checks

    def _jobs(self, made: Sequence[dg.AssetsDefinition]) -> "list[dg.UnresolvedAssetJobDefinition]":
        if not self.job:
            return []
        about = (
            self.description
            or f"Build all parts of {self.name}, check them, and freeze them into a registered bundle. Does not change what serves."
        )
        selection = dg.AssetSelection.assets(*(asset.key for asset in made))
        return [dg.define_asset_job(self.job, selection=selection, executor_def=dg.in_process_executor, description=about)]


def _code(service: str) -> list[str]:
    """The files frozen by its service.yaml, from the project folder; that file alone if it cannot be read."""
    from lastgood import errors
    from lastgood.service import schema

    folder = Path("services") / service
    try:
        code = schema.load(project.root() / folder).code
    except errors.LastgoodError:
        code = ()
    return [str(folder / name) for name in (schema.FILE, *code)]
