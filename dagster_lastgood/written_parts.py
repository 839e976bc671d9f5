"""A part written by one function: the shortest way to a service of your own.

    def model(out: Path, data: Path) -> Written | None:

The function fills the folder *out*; `inputs` lists its other possible parameters.
"""

import dataclasses
import inspect
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import dagster as dg

from dagster_lastgood import inputs, mlflow_runs, parts
from dagster_lastgood import metadata as asset_metadata
from lastgood.settings import Settings

Write = Callable[..., "Written | None"]
Follow = Callable[[Path, Settings], Mapping[str, Any]]
"""Follow-up work once a part is in its folder in the store; returns additional metadata."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Written:
    """What a function returns about the part that it wrote.

    `meta` are facts for the manifest (plain JSON), `metrics` the part's offline evaluation, or `report` the complete one, including
    `metrics`. `provenance` says where the part comes from, `metadata` is additional metadata for Dagster. `params` and `plots` (PNG) go to MLflow
    with a training.
    """

    meta: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    metrics: Mapping[str, float] | None = None
    report: Mapping[str, Any] | None = None
    provenance: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    metadata: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    params: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    plots: Mapping[str, bytes] = dataclasses.field(default_factory=dict)

    @property
    def evaluation(self) -> Mapping[str, Any] | None:
        """The report, consisting only of the metrics if there is nothing else; None for a part that was not evaluated."""
        return self.report if self.report is not None or self.metrics is None else {"metrics": dict(self.metrics)}

    def shown(self) -> dict[str, Any]:
        """Metadata: its own, each metric as a number that the UI plots, and the report as read by later steps."""
        report = self.evaluation
        if report is None:
            return dict(self.metadata)
        numbers = {f"evaluation/{metric}": value for metric, value in report["metrics"].items()}
        return {**numbers, **self.metadata, parts.REPORT: dg.MetadataValue.json(report)}


@dataclasses.dataclass(frozen=True, slots=True)
class Part:
    """How a part is made and shown, where the function that writes it is not enough.

    `name` is the part's, if its asset has a different one. `code` are the files whose change makes it stale, from the project folder;
    without them, it is the file that defines the function. `then` is follow-up work once it is stored. `training` records it in MLflow.
    """

    write: Write
    _: dataclasses.KW_ONLY
    name: str = ""
    media_type: str = "application/octet-stream"
    kinds: Sequence[str] = ()
    code: Sequence[str] = ()
    then: Follow | None = None
    training: mlflow_runs.Training | None = None


def part_of(write: Write | Part) -> Part:
    """A function alone, as the part that it writes."""
    return write if isinstance(write, Part) else Part(write)


def part(service: str, asset: str, write: Write | Part, *, owners: Sequence[str], deps: Sequence[dg.AssetKey] = ()) -> dg.AssetsDefinition:
    """The asset `<service>/<asset>` that *write* makes; *deps* are upstream assets in addition to those the function needs.

    The name of the part determines the files that it may hold: `model`, `prompt`, anything else is data. Raises ValueError for a function
    without the parameter `out`, TypeError for a `config` that is not a dagster.Config.
    """
    declared = part_of(write)
    name = declared.name or asset
    wanted = inputs.inputs_of(declared.write)
    if inputs.OUT not in wanted.ours:
        raise ValueError(f"{inputs.named(declared.write)} of part {name!r} has no parameter 'out', the folder to fill; add it")
    kind = wanted.config

    @dg.asset(
        key=parts.key(service, asset),
        deps=[*deps, *wanted.deps(service)],
        group_name=service,
        owners=list(owners),
        kinds=set(declared.kinds),
        code_version=inputs.code_version(declared.write, declared.code),
        description=inspect.getdoc(declared.write) or f"Part {name!r} of {service}.",
        required_resource_keys={"settings", *(["mlflow"] if declared.training else [])},
    )
    def made(
        context: dg.AssetExecutionContext,
        config: kind,  # type: ignore[valid-type]  # Dagster reads the class of this very function
    ) -> dg.MaterializeResult[Any]:
        return _made(context, service, name, declared, wanted, config)

    return made


def _made(
    context: dg.AssetExecutionContext, service: str, name: str, declared: Part, wanted: inputs.Inputs, config: dg.Config
) -> dg.MaterializeResult[Any]:
    """Let the function write, store the folder, and do the follow-up work."""
    from lastgood.bundle import store as bundle_store

    settings: Settings = context.resources.settings
    store = bundle_store.Store(settings.store)
    needed = wanted.made(context, service)
    arguments = wanted.arguments(context, service, needed, config=config, part=name)
    with tempfile.TemporaryDirectory() as scratch:
        out = Path(scratch) / name
        out.mkdir()
        written = declared.write(out=out, **arguments) or Written()
        stored = store.put(out, allow=_formats(name))
    folder = store.path(stored.digest)
    entry = bundle_store.part(stored, name=name, media_type=declared.media_type, meta=dict(written.meta))
    shown = {"files": asset_metadata.files(store.listing(stored.digest)), "folder": dg.MetadataValue.path(folder), **written.shown()}
    provenance = dict(written.provenance)
    if declared.then is not None:
        shown |= declared.then(folder, settings)
    if declared.training is not None:
        run = mlflow_runs.write_down(context, declared.training, written, entry, made_of=needed)
        shown["mlflow run"] = asset_metadata.mlflow_run(settings.tracking_uri, experiment_id=run["experiment_id"], run_id=run["run_id"])
        provenance["mlflow"] = run
    return parts.result(context, entry, provenance=provenance, metadata=shown)


def _formats(name: str) -> frozenset[str]:
    from lastgood.bundle import formats

    return {"model": formats.MODEL_FORMATS, "prompt": formats.CONFIG_FORMATS}.get(name, formats.DATA_FORMATS)
