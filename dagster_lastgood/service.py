"""One service as a code location shows it: its parts and bundle, its release, what comes in, the checks of all of them, its build job."""

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Self

import dagster as dg

from dagster_lastgood import automation, drift_assets, gate_checks, live_checks, part_assets, project, written_parts


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Service:
    """What `build_definitions` needs of a service.

    `made` are the assets that the build job makes: the parts and the bundle. `source` is what a new version of makes them anew.
    `checks` are checks of the service's own. `expectations` gives what is expected of requests (Great Expectations), each with
    `meta={"check": name}`; `expected` describes these checks by name. `build` is the name of the build job; without one there is none.
    """

    name: str
    owners: Sequence[str]
    made: Sequence[dg.AssetsDefinition] = ()
    build: str = ""
    description: str = ""
    source: dg.AssetsDefinition | None = None
    checks: Sequence[dg.AssetChecksDefinition] = ()
    expectations: live_checks.Expectations | None = None
    expected: Mapping[str, str] = dataclasses.field(default_factory=dict)

    @classmethod
    def written(
        cls,
        name: str,
        *,
        owners: Sequence[str],
        parts: Mapping[str, written_parts.Write],
        evaluated: str = "model",
        build: str = "",
        source: dg.AssetsDefinition | None = None,
        checks: Sequence[dg.AssetChecksDefinition] = (),
        expectations: live_checks.Expectations | None = None,
        expected: Mapping[str, str] | None = None,
    ) -> Self:
        """A service whose *parts* are each written by one function, see `written_parts`; configuration, environment and bundle come with it.

        *evaluated* names the part whose function returns the metrics. The build job is called `build_<name>` unless *build* says so.
        """
        names = [*parts, "config", "environment"]
        scored = evaluated if evaluated in parts else None
        return cls(
            name=name,
            owners=owners,
            made=[
                *(written_parts.part(name, part, write, owners=owners) for part, write in parts.items()),
                part_assets.config(name, owners=owners, code=_code(name)),
                part_assets.environment(name, owners=owners),
                written_parts.bundle(name, names, owners=owners, evaluated=scored),
            ],
            build=build or f"build_{name}",
            source=source,
            checks=[*([part_assets.limits(name, of=scored)] if scored else []), part_assets.verifies(name), *checks],
            expectations=expectations,
            expected=expected or {},
        )

    def definitions(self) -> dg.Definitions:
        """Its assets, checks and build job; jobs and sensors that all services share come with `build_definitions`."""
        made = automation.rebuilt(self.name, self.made) if self.source else list(self.made)
        about = (
            self.description
            or f"Build all parts of {self.name}, check them, and freeze them into a registered bundle. Does not change what serves."
        )
        selection = dg.AssetSelection.assets(*(asset.key for asset in made))
        jobs = (
            [dg.define_asset_job(self.build, selection=selection, executor_def=dg.in_process_executor, description=about)]
            if self.build
            else []
        )
        shown = [part_assets.release(self.name, owners=self.owners), drift_assets.drift(self.name, owners=self.owners)]
        checks = [*self.checks, gate_checks.checks(self.name)]
        if self.expectations is not None:
            checks.append(live_checks.checks(self.name, self.expected, suite=self.expectations))
        sources = [self.source] if self.source else []
        return dg.Definitions(assets=[*sources, *made, *shown], asset_checks=checks, jobs=jobs)


def _code(service: str) -> list[str]:
    """The files that its service.yaml freezes, from the project folder; that file alone if it cannot be read."""
    from lastgood import errors
    from lastgood.service import schema

    folder = Path("services") / service
    try:
        code = schema.load(project.root() / folder).code
    except errors.LastgoodError:
        code = ()
    return [str(folder / name) for name in (schema.FILE, *code)]
