"""New data lead to a new bundle, which becomes a candidate: an observed source, and the conditions under which parts are rebuilt.

The sensor `new_data` is off until somebody turns it on, because it builds and releases unattended. The bundles it builds pass
the phases and gates of their service like any other (sensor `new_candidate`), and never go straight to stable.
"""

from collections.abc import Callable, Sequence
from pathlib import Path

import dagster as dg

from dagster_lastgood import parts, project

CANDIDATE = "lastgood/candidate"
"""Tag of the runs whose bundle is to be proposed; its value is the reason."""
NAME = "new_data"
EVERY = "*/5 * * * *"
"""When sources are observed: every five minutes."""


def key(service: str) -> dg.AssetKey:
    """The asset key of the source of *service*."""
    return parts.key(service, "source")


def source(service: str, version: Callable[[Path], str], *, owners: Sequence[str], description: str) -> dg.AssetsDefinition:
    """`<service>/source`: where the data come from. *version* returns the version present now, given the project folder."""
    spec = dg.AssetSpec(
        key(service),
        group_name=service,
        owners=list(owners),
        description=description,
        automation_condition=dg.AutomationCondition.cron_tick_passed(EVERY) & ~dg.AutomationCondition.in_progress(),
    )

    observed: Callable[[Callable[[], dg.ObserveResult]], dg.AssetsDefinition]
    observed = dg.multi_observable_source_asset(name=f"{service}__source", specs=[spec])

    @observed
    def source() -> dg.ObserveResult:
        """The version present now."""
        return dg.ObserveResult(spec.key, data_version=dg.DataVersion(version(project.root())))

    return source


def rebuilt(service: str, made: Sequence[dg.AssetsDefinition]) -> list[dg.AssetsDefinition]:
    """The parts *made* and their bundle, set up so that a new version of the source rebuilds all of them in one run."""
    changed: dg.AutomationCondition[dg.AssetKey | dg.AssetCheckKey]
    changed = dg.AutomationCondition.asset_matches(key(service), dg.AutomationCondition.data_version_changed())
    of_it = changed.since_last_handled()
    after_it = dg.AutomationCondition.any_deps_match(dg.AutomationCondition.will_be_requested())
    ours = {part.key for part in made}

    def with_condition(spec: dg.AssetSpec) -> dg.AssetSpec:
        built_on = any(dep.asset_key in ours for dep in spec.deps)
        return spec.replace_attributes(automation_condition=after_it if built_on else of_it)

    return list(dg.map_asset_specs(with_condition, made))


def new_data(services: Sequence[str]) -> dg.AutomationConditionSensorDefinition:
    """The sensor that observes the sources of *services* and builds; turned on manually. It ignores other assets of the code location."""
    return dg.AutomationConditionSensorDefinition(
        NAME,
        target=dg.AssetSelection.groups(*services) if services else dg.AssetSelection.assets(),
        run_tags={CANDIDATE: "built from new data"},
        minimum_interval_seconds=30,
        default_status=dg.DefaultSensorStatus.STOPPED,
        description="Checks the sources every five minutes; new data are built into a bundle, which becomes a candidate.",
    )
