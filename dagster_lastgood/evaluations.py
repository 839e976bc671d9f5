"""`<service>/evaluation`: how good the parts of a build are together, on questions with known answers.

    def evaluation(corpus: Path, model: Path, options: Mapping[str, Any]) -> Written:
        return Written(report={"metrics": {"recall": 0.9}})

`inputs` lists the possible parameters; nothing is written. The check `limits` compares the metrics with service.yaml.
"""

import dataclasses
import inspect
from collections.abc import Callable, Sequence
from typing import Any

import dagster as dg

from dagster_lastgood import inputs, parts
from dagster_lastgood.written_parts import Written

NAME = "evaluation"
Measure = Callable[..., Written]


@dataclasses.dataclass(frozen=True, slots=True)
class Evaluation:
    """An evaluation whose function alone is not enough: `code` are the files whose change makes it stale, from the project folder."""

    measure: Measure
    _: dataclasses.KW_ONLY
    code: Sequence[str] = ()


def evaluation(service: str, measure: Measure | Evaluation, *, owners: Sequence[str]) -> dg.AssetsDefinition:
    """The asset of the report of *measure*.

    Raises ValueError for a function that asks to write or to compare with a stable part, TypeError for a `config` that is not a
    dagster.Config.
    """
    declared = measure if isinstance(measure, Evaluation) else Evaluation(measure)
    wanted = inputs.inputs_of(declared.measure)
    odd = sorted(wanted.ours & {inputs.OUT, inputs.STABLE})
    if odd:
        raise ValueError(f"{inputs.named(declared.measure)} takes {odd[0]!r}, and an evaluation is not a part; take it away")
    kind = wanted.config

    @dg.asset(
        key=parts.key(service, NAME),
        deps=wanted.deps(service),
        group_name=service,
        owners=list(owners),
        kinds={"python"},
        code_version=inputs.code_version(declared.measure, declared.code),
        description=inspect.getdoc(declared.measure) or f"How good the parts of {service} are together.",
        required_resource_keys={"settings"},
    )
    def evaluated(
        context: dg.AssetExecutionContext,
        config: kind,  # type: ignore[valid-type]  # Dagster reads the class of this very function
    ) -> dg.MaterializeResult[Any]:
        from lastgood.bundle import manifest

        found = declared.measure(**wanted.arguments(context, service, wanted.made(context, service), config=config))
        version = manifest.sha256(manifest.canonical(found.evaluation or {"metrics": {}}))
        return dg.MaterializeResult(data_version=dg.DataVersion(version), metadata=found.shown())

    return evaluated
