"""The assets common to every service: configuration, environment, bundle, release, and their checks.

Each function makes one for a service. Service-specific parts (data, model, prompt, index) are defined in the service's folder.
"""

import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import dagster as dg
from pydantic import Field

from dagster_lastgood import metadata as asset_metadata
from dagster_lastgood import parts
from lastgood.settings import Settings
from lastgood.system import clock

if TYPE_CHECKING:
    from lastgood.bundle.manifest import Bundle
    from lastgood.release import Context

ERROR = dg.AssetCheckSeverity.ERROR


class Options(dg.Config):
    """What to change of service.yaml for this bundle."""

    options: dict[str, Any] = Field(default={}, description='Options to replace, for example {"departure_clock": "utc"}.')
    overlay: dict[str, Any] = Field(
        default={}, description='Whole keys of service.yaml to replace, for example {"release": {"strategy": []}}.'
    )


def config(service: str, *, owners: Sequence[str], code: Sequence[str]) -> dg.AssetsDefinition:
    """The configuration part: service.yaml with the code that it names. *code* are files whose change makes it stale."""

    @dg.asset(
        key=parts.key(service, "config"),
        group_name=service,
        kinds={"yaml", "python"},
        owners=list(owners),
        code_version=parts.code_version(*code),
        description="service.yaml and the serving code, frozen together; a rollback restores both.",
    )
    def config(context: dg.AssetExecutionContext, config: Options, settings: dg.ResourceParam[Settings]) -> dg.MaterializeResult[Any]:
        """Freeze the service folder with the requested options."""
        from lastgood.bundle import store as bundle_store
        from lastgood.service import schema

        store = bundle_store.Store(settings.store)
        with tempfile.TemporaryDirectory() as scratch:
            frozen = schema.freeze(settings.services / service, Path(scratch) / "config", options=config.options, overlay=config.overlay)
            described = schema.parse_frozen((frozen / schema.FILE).read_text("utf-8"), where="the frozen service.yaml")
            stored = store.put(frozen, allow=bundle_store.CONFIG_FORMATS)
        part = bundle_store.part(stored, name="config", media_type="application/yaml", meta={"options": described.options})
        metadata = {"options": dg.MetadataValue.json(described.options), "files": asset_metadata.files(store.listing(stored.digest))}
        return parts.result(context, part, provenance={"overrides": {**config.options, **config.overlay}}, metadata=metadata)

    return config


def environment(service: str, *, owners: Sequence[str]) -> dg.AssetsDefinition:
    """The environment part: the locked packages, interpreter and platform that a bundle was built with."""

    @dg.asset(
        key=parts.key(service, "environment"),
        group_name=service,
        kinds={"python"},
        owners=list(owners),
        code_version=parts.code_version("requirements.lock"),
        description="Digest of requirements.lock with the interpreter and the platform.",
    )
    def environment(context: dg.AssetExecutionContext, settings: dg.ResourceParam[Settings]) -> dg.MaterializeResult[Any]:
        """Describe the environment of this process."""
        from lastgood.bundle import environment as environments
        from lastgood.bundle import store as bundle_store

        described = environments.describe(settings.project / "requirements.lock")
        stored = bundle_store.Store(settings.store).put_bytes(environments.encode(described), name="environment.json")
        part = bundle_store.part(stored, name="environment", media_type="application/json", meta=described)
        return parts.result(context, part, provenance={}, metadata={"environment": dg.MetadataValue.json(described)})

    return environment


def release(service: str, *, owners: Sequence[str]) -> dg.AssetSpec:
    """The release: which bundle is stable, and the gates' verdicts on the one in progress.

    It is not materialized in Dagster: the sensors `release_mirror` and `rollout_mirror` report it from the ledger.
    """
    return dg.AssetSpec(
        parts.release_key(service),
        deps=[parts.key(service, "bundle")],
        group_name=service,
        kinds={"lastgood"},
        owners=list(owners),
        description="One materialization per revision of the release ledger; the data version is the stable bundle's id. "
        "Unsynced means that a newer bundle was built and is not released.",
    )


# --- the bundle ----------------------------------------------------------------------------------------------


def bundle(
    service: str,
    assets: Sequence[str],
    *,
    owners: Sequence[str],
    evaluated: str | None,
    repeated: Mapping[str, tuple[str, str]] = MappingProxyType({}),
) -> dg.AssetsDefinition:
    """The asset `<service>/bundle` of the parts that *assets* make; its offline evaluation is the report of the asset *evaluated*.

    *repeated* are metadata entries copied from other assets, each as its asset and entry: {"rows": ("index", "dagster/row_count")}.
    """
    needed = dict.fromkeys([*assets, *([evaluated] if evaluated else [])])

    @dg.asset(
        key=parts.key(service, "bundle"),
        deps=[parts.key(service, name) for name in needed],
        group_name=service,
        kinds={"lastgood"},
        owners=list(owners),
        code_version="1",
        description="What is released and rolled back as one. Registering it changes nothing that serves; the job promote does.",
    )
    def bundle(context: dg.AssetExecutionContext, settings: dg.ResourceParam[Settings]) -> dg.MaterializeResult[Any]:
        """Assemble the parts of this run, register the bundle, and store its evaluation."""
        found = parts.metadata(context, service, evaluated).get(parts.REPORT) if evaluated else None
        report: Mapping[str, Any] = found.value if found is not None else {"metrics": {}}
        made = {name: parts.made(context, service, name) for name in assets}
        built, before, shown = _registered(context, service, made, report=report, settings=settings)
        then = _newest_metrics(settings, before)
        shown |= {
            "evaluation": asset_metadata.comparison(report["metrics"], then, of="this bundle"),
            "mlflow version": _show_in_mlflow(settings, built, tags=_training_tags(made)),
            **{entry: parts.metadata(context, service, asset)[name] for entry, (asset, name) in repeated.items()},
        }
        return dg.MaterializeResult(data_version=dg.DataVersion(built.id), metadata=shown)

    return bundle


def _registered(
    context: dg.AssetExecutionContext,
    service: str,
    made: Mapping[str, parts.BuiltPart],
    *,
    report: Mapping[str, Any],
    settings: Settings,
) -> "tuple[Bundle, Bundle | None, dict[str, Any]]":
    """The bundle of the parts *made*, by asset, registered with *report* as its offline evaluation.

    Returned with the present stable bundle, and the metadata of both for the UI.
    """
    from lastgood import release
    from lastgood.bundle import manifest

    built = manifest.bundle_of(service, *(item.part for item in made.values()))
    with release.open_context(settings) as ctx:
        provenance = parts.provenance(context, made, now=clock.now(), project=settings.project)
        new = release.register(ctx, built, provenance=provenance, actor="dagster", now=clock.now())
        ctx.ledger.evaluate(built.id, kind="offline", report=report, actor="dagster", now=clock.now())
        before = _stable(ctx, service)
    changes = [
        {"part": c.name, "against stable": c.change, "digest": built.parts[c.name].digest} for c in manifest.diff(before, built) if c.after
    ]
    metadata: dict[str, Any] = {
        "lastgood/bundle": built.id,
        "registered": "now" if new else "was already registered",
        "parts": asset_metadata.table(changes),
        "promote": dg.MetadataValue.md(f"`lastgood promote {service} {manifest.short(built.id)}`"),
        "manifest": dg.MetadataValue.json(built.manifest()),
        "provenance": dg.MetadataValue.json(provenance),
    }
    return built, before, metadata


def _stable(ctx: "Context", service: str) -> "Bundle | None":
    stable = ctx.ledger.state(service).stable
    return ctx.ledger.bundle(stable) if stable else None


def stable_part(settings: Settings, service: str, name: str) -> Path | None:
    """The stored part *name* of the present stable bundle; None before the first release, or if it has none."""
    from lastgood import release

    with release.open_context(settings) as ctx:
        stable = _stable(ctx, service)
        return ctx.store.path(stable.parts[name].digest) if stable and name in stable.parts else None


def _newest_metrics(settings: Settings, of: "Bundle | None") -> Mapping[str, float]:
    """The metrics of the newest offline evaluation of bundle *of*; empty without one."""
    from lastgood import release

    if of is None:
        return {}
    with release.open_context(settings) as ctx:
        found = [one.report.get("metrics", {}) for one in ctx.ledger.evaluations(of.id) if one.kind == "offline"]
    return found[-1] if found else {}


def _show_in_mlflow(settings: Settings, built: "Bundle", *, tags: Mapping[str, str]) -> str:
    """Create the bundle's version in MLflow's registry and tag it; returns a message, also if the registry is turned off."""
    if settings.layers.registry != "mlflow":
        return "the registry layer is turned off"
    from lastgood.layers import registry

    return registry.register_bundle(settings, built, tags=tags)


def _training_tags(made: Mapping[str, parts.BuiltPart]) -> dict[str, str]:
    """The MLflow run and model of the trained parts."""
    trained = [part.provenance["mlflow"] for part in made.values() if "mlflow" in part.provenance]
    return {f"lastgood.mlflow_{name}": str(run[name]) for run in trained for name in ("run_id", "model_id") if name in run}


# --- checks --------------------------------------------------------------------------------------------------


def limits(service: str, *, of: str) -> dg.AssetChecksDefinition:
    """The floors and ceilings of service.yaml as a check on the part *of*, whose materialization holds the evaluation."""

    @dg.asset_check(
        asset=parts.key(service, of),
        name="limits",
        blocking=True,
        description="Offline metrics keep to the floors and ceilings of service.yaml.",
    )
    def limits(context: dg.AssetCheckExecutionContext, settings: dg.ResourceParam[Settings]) -> dg.AssetCheckResult:
        """The same rule as for a promotion, reported before anything is bundled."""
        from lastgood import release
        from lastgood.service import schema

        wanted = schema.load(settings.services / service).evaluation
        metrics = parts.metadata(context, service, of)[parts.REPORT].value["metrics"]
        missed = release.missed_limits(wanted, metrics)
        rows: list[asset_metadata.TableRow] = [
            {"metric": m, "value": metrics.get(m), "limit": f"at least {low}"} for m, low in sorted(wanted.floors.items())
        ]
        rows += [{"metric": m, "value": metrics.get(m), "limit": f"at most {high}"} for m, high in sorted(wanted.ceilings.items())]
        return dg.AssetCheckResult(
            passed=not missed, severity=ERROR, metadata={"limits": asset_metadata.table(rows), "missed": "; ".join(missed) or "none"}
        )

    return limits


def verifies(service: str) -> dg.AssetChecksDefinition:
    """Every byte of every part of the bundle registered by this run, as a check."""

    @dg.asset_check(
        asset=parts.key(service, "bundle"),
        name="verifies",
        blocking=True,
        description="Every byte of every part is in the store and matches the manifest.",
    )
    def verifies(context: dg.AssetCheckExecutionContext, settings: dg.ResourceParam[Settings]) -> dg.AssetCheckResult:
        """Hash the parts of the bundle registered by this run."""
        from lastgood import errors, release

        digest = parts.bundle_id(context, service)
        with release.open_context(settings, read_only=True) as ctx:
            try:
                ctx.store.verify_bundle(ctx.ledger.bundle(digest), deep=True)
            except (errors.Damaged, errors.NotFound) as error:
                return dg.AssetCheckResult(passed=False, severity=ERROR, metadata={"bundle": digest, "found": str(error)})
        return dg.AssetCheckResult(passed=True, severity=ERROR, metadata={"bundle": digest})

    return verifies
