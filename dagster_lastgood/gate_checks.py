"""The gates of a service as asset checks on `<service>/release`: one for each gate in its service.yaml.

The sensor `rollout_mirror` reports them as the controller measures. Executing one manually does not measure: it returns
the gate's last verdict, from the ledger.

Dagster knows passed and failed, but a gate may also be inconclusive: no traffic yet, too few requests, a source that is down. That
is not a failure and must not pass either, so no evaluation is reported: the check keeps its last result, with the time and the bundle
that it is about, and the observations of `<service>/release` show what is inconclusive, and why.
"""

import math
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING

import dagster as dg

from dagster_lastgood import parts, project
from lastgood.analysis import follow
from lastgood.settings import Settings
from lastgood.system import clock

if TYPE_CHECKING:
    from lastgood.service.gates import AnyGate

FIGURES = ("n", "n_beside", "estimate", "reference", "evidence", "boundary", "streak", "persistence", "needs", "needs_s")
"""The numeric fields of a verdict; the UI plots them over time."""


def checks_of_service(service: str) -> "dict[str, AnyGate]":
    """The gates of the service.yaml in the project, by name; the default ones if it cannot be read.

    That is not an error here: a broken service must not prevent the jobs of the others, `rollback` above all, from loading.
    """
    from lastgood import errors
    from lastgood.service import gates as service_gates
    from lastgood.service import schema

    try:
        return dict(schema.load(project.root() / "services" / service).gates)
    except errors.LastgoodError:
        return dict(service_gates.DEFAULTS)


def specs(service: str) -> list[dg.AssetCheckSpec]:
    """One check per gate, with the gate's name."""
    return [
        dg.AssetCheckSpec(name, asset=parts.release_key(service), description=f"{gate.kind}: {_says(gate)}{_units(gate)}")
        for name, gate in checks_of_service(service).items()
    ]


def _says(gate: "AnyGate") -> str:
    return (type(gate).__doc__ or gate.metric).strip().splitlines()[0]


def _units(gate: "AnyGate") -> str:
    """The unit of the figures, where their names do not include it."""
    from lastgood.gates import gate as gate_run

    return (
        " `evidence` is log10 of the e-value against 'no worse', `boundary` log10 of what it has to reach for the gate to fail."
        if isinstance(gate, gate_run.TESTED)
        else ""
    )


def checks(service: str) -> dg.AssetChecksDefinition:
    """The checks of *service*. Those of gates without a verdict yet, or with an inconclusive one, are skipped."""

    @dg.multi_asset_check(name=f"{service}__gates", specs=specs(service), can_subset=True, description="The latest verdict of each gate.")
    def gates(context: dg.AssetCheckExecutionContext, settings: dg.ResourceParam[Settings]) -> Iterator[dg.AssetCheckResult]:
        from lastgood import release

        with release.open_context(settings, read_only=True) as ctx:
            said = follow.newest(ctx, service, now=clock.now())
        for name in sorted(key.name for key in context.selected_asset_check_keys):
            if name not in said:
                context.log.info(f"gate {name!r} has no verdict yet")
            elif said[name].verdict.outcome == "inconclusive":
                context.log.info(f"gate {name!r} cannot tell: {said[name].verdict.why}")
            else:
                yield _result(evaluation(service, said[name]))

    return gates


def _result(one: dg.AssetCheckEvaluation) -> dg.AssetCheckResult:
    return dg.AssetCheckResult(
        asset_key=one.asset_key,
        check_name=one.check_name,
        passed=one.passed,
        severity=one.severity,
        description=one.description,
        metadata=one.metadata,
    )


def evaluations(service: str, answers: Iterable[follow.Said]) -> Iterator[dg.AssetCheckEvaluation]:
    """The passes and failures in *answers*, as events without a run."""
    return (evaluation(service, said) for said in answers if said.verdict.outcome != "inconclusive")


def evaluation(service: str, said: follow.Said) -> dg.AssetCheckEvaluation:
    """*said*, a pass or a failure, as an event without a run. Only a failed guardrail is an error, other failures are warnings."""
    verdict = said.verdict
    grave = verdict.outcome == "fail" and verdict.kind == "guardrail"
    words = "failed: " if verdict.outcome == "fail" else ""
    return dg.AssetCheckEvaluation(
        asset_key=parts.release_key(service),
        check_name=said.gate,
        passed=verdict.outcome == "pass",
        severity=dg.AssetCheckSeverity.ERROR if grave else dg.AssetCheckSeverity.WARN,
        description=f"{words}{verdict.why}",
        metadata={
            "lastgood/bundle": said.bundle,
            "outcome": verdict.outcome,
            "cause": verdict.cause,
            "kind": verdict.kind,
            "metric": verdict.metric,
            **({"interval": "{:g} to {:g}".format(*verdict.interval)} if verdict.interval else {}),
            **figures(said),
        },
    )


def figures(said: follow.Said) -> dict[str, float]:
    """The finite figures of a verdict, by name."""
    values = {name: getattr(said.verdict, name) for name in FIGURES}
    return {name: value for name, value in values.items() if value is not None and math.isfinite(value)}
