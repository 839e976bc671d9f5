"""A part that one function writes: the shortest way to a service of your own.

    def model(out: Path, data: Path) -> Written | None:

The function fills the folder *out*; the other parameters are parts that it needs, by name, as folders of the same run. A
parameter `config`, annotated with a `dagster.Config`, is what a person may change for one run; `settings` are those of lastgood.
"""

import dataclasses
import hashlib
import inspect
import tempfile
import typing
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import dagster as dg

from dagster_lastgood import metadata as show
from dagster_lastgood import part_assets, parts
from lastgood import settings as settings_

Write = Callable[..., "Written | None"]

OUT, CONFIG, SETTINGS = "out", "config", "settings"


class NoConfig(dg.Config):
    """Nothing that a person may change."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Written:
    """What a function says of the part that it wrote.

    `meta` are facts for the manifest (plain JSON), `metrics` the part's offline evaluation, `provenance` where it comes from,
    `metadata` more for Dagster's pages.
    """

    meta: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    metrics: Mapping[str, float] | None = None
    provenance: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    metadata: Mapping[str, Any] = dataclasses.field(default_factory=dict)


def part(
    service: str, name: str, write: Write, *, owners: Sequence[str], media_type: str = "application/octet-stream", kinds: Sequence[str] = ()
) -> dg.AssetsDefinition:
    """The asset `<service>/<name>` that *write* makes. What files it may hold goes by *name*: `model`, `prompt`, anything else is data.

    Raises ValueError for a function that takes no folder `out`, TypeError for a `config` of no kind.
    """
    taken = inspect.signature(write).parameters
    needs = [parameter for parameter in taken if parameter not in (OUT, CONFIG, SETTINGS)]
    if OUT not in taken:
        raise ValueError(f"{_named(write)} of part {name!r} has no parameter 'out', the folder to fill; add it")

    kind = _config_of(write)

    @dg.asset(
        key=parts.key(service, name),
        deps=[parts.key(service, need) for need in needs],
        group_name=service,
        owners=list(owners),
        kinds=set(kinds),
        code_version=_source_version(write),
        description=inspect.getdoc(write) or f"Part {name!r} of {service}.",
    )
    def made(
        context: dg.AssetExecutionContext,
        config: kind,  # type: ignore[valid-type]  # Dagster reads the class of this very function
        settings: dg.ResourceParam[settings_.Settings],
    ) -> dg.MaterializeResult[Any]:
        from lastgood.bundle import store as artifacts

        store = artifacts.Store(settings.store)
        given: dict[str, Any] = {need: store.path(parts.made(context, service, need).part.digest) for need in needs}
        given |= {key: value for key, value in ((CONFIG, config), (SETTINGS, settings)) if key in taken}
        with tempfile.TemporaryDirectory() as scratch:
            out = Path(scratch) / name
            out.mkdir()
            written = write(out=out, **given) or Written()
            stored = store.put(out, allow=_formats(name))
        entry = artifacts.part(stored, name=name, media_type=media_type, meta=dict(written.meta))
        shown: dict[str, Any] = {**written.metadata, "files": show.files(store.listing(stored.digest))}
        if written.metrics is not None:
            shown |= {f"evaluation/{metric}": value for metric, value in written.metrics.items()}
            shown[parts.REPORT] = dg.MetadataValue.json({"metrics": dict(written.metrics)})
        return parts.result(context, entry, provenance=dict(written.provenance), metadata=shown)

    return made


def bundle(service: str, names: Sequence[str], *, owners: Sequence[str], evaluated: str | None) -> dg.AssetsDefinition:
    """The asset `<service>/bundle` of the parts *names*; the offline evaluation is that of the part *evaluated*."""

    @dg.asset(
        key=parts.key(service, "bundle"),
        deps=[parts.key(service, name) for name in names],
        group_name=service,
        kinds={"lastgood"},
        owners=list(owners),
        code_version="1",
        description="The unit of release and rollback. Registering it does not change what serves; the job promote does.",
    )
    def bundled(context: dg.AssetExecutionContext, settings: dg.ResourceParam[settings_.Settings]) -> dg.MaterializeResult[Any]:
        found = parts.made(context, service, evaluated).metadata.get(parts.REPORT) if evaluated else None
        report: Mapping[str, Any] = found.value if found is not None else {"metrics": {}}
        built, before, shown = part_assets.registered(context, service, names, report=report, settings=settings)
        then = part_assets.newest_metrics(settings, before)
        rows = [
            {"metric": name, "this bundle": float(value), "stable": then.get(name)} for name, value in sorted(report["metrics"].items())
        ]
        shown |= {"evaluation": show.table(rows), "mlflow version": part_assets.show_in_mlflow(settings, built, tags={})}
        return dg.MaterializeResult(data_version=dg.DataVersion(built.id), metadata=shown)

    return bundled


def _config_of(write: Write) -> type[dg.Config]:
    """The class of its parameter `config`; one without fields if it has none."""
    if CONFIG not in inspect.signature(write).parameters:
        return NoConfig
    found = typing.get_type_hints(write).get(CONFIG)
    if not (isinstance(found, type) and issubclass(found, dg.Config)):
        raise TypeError(f"{_named(write)} takes 'config', which is not annotated with a class made from dagster.Config; annotate it")
    return found


def _formats(name: str) -> frozenset[str]:
    from lastgood.bundle import formats

    return {"model": formats.MODEL_FORMATS, "prompt": formats.CONFIG_FORMATS}.get(name, formats.DATA_FORMATS)


def _source_version(write: Write) -> str:
    """Changes with the file that the function stands in."""
    try:
        source = Path(inspect.getfile(write)).read_bytes()
    except (OSError, TypeError):
        return "1"
    return hashlib.sha256(source).hexdigest()[:12]


def _named(write: Write) -> str:
    return getattr(write, "__qualname__", repr(write))
