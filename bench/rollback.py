"""A rollback under load: how long it takes by the command line and by Dagster, and whether anything fails or mixes meanwhile."""

from __future__ import annotations

import dataclasses

from bench import aliases, commands, flips, launches, processes, running, startup
from bench.table import Table


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Size:
    """How often each thing is done. `registry` is the layer that mirrors into MLflow; importing MLflow takes seconds.

    `older`: there is a release before the rollback target, as usual; its worker must be gone, which takes ten seconds.
    """

    rollbacks: int
    launches: int
    flips: int
    alias_flips: int
    starts: int
    registry: str
    older: bool

    @property
    def stack(self) -> str:
        """What runs, in words."""
        more = "MLflow mirror, a third release before the two" if self.older else "no MLflow mirror, no older release (quick run)"
        return f"Envoy, a warm worker each for stable and previous, controller, SQLite ledger, {more}"


QUICK = Size(rollbacks=2, launches=0, flips=10, alias_flips=0, starts=2, registry="", older=False)
FULL = Size(rollbacks=10, launches=3, flips=200, alias_flips=40, starts=15, registry="mlflow", older=True)


def run(*, quick: bool) -> list[Table]:
    """Every table; a quick run leaves out those that have to start Dagster or MLflow."""
    size = QUICK if quick else FULL
    with processes.scratch() as folder:
        with running.up(folder / "project", registry=size.registry, older=size.older) as stack:
            by_hand = commands.measure_rollbacks(stack, count=size.rollbacks, out=folder / "commands.jsonl")
            tables = [commands.table(by_hand, stack=size.stack), startup.table(stack, count=size.starts)]
            if size.launches:
                launched = launches.measure_launches(stack, count=size.launches, out=folder / "launches.jsonl", home=folder / "dagster")
                tables.append(launches.table(launched, by_hand))
            flipped = flips.measure_flips(stack, count=size.flips, out=folder / "flips.jsonl")
        controls = aliases.measure_aliases(folder / "aliases", count=size.alias_flips) if size.alias_flips else []
        return [*tables, flips.table(flipped, controls)]
