"""MLflow as a mirror of the ledger: readers there see which bundle is stable, candidate and previous.

One registered model per service, one version per bundle, found by its tag `lastgood.bundle`. Nothing serves from
MLflow, so it may be slow, down, or edited by hand: the next apply restores what is ours (the three aliases, the
versions they point to) and leaves everything else alone.

The version's source is `lastgood://bundle/<digest>`: MLflow accepts any scheme, one call creates the version with all
its tags, and no process-wide setting is touched (a `models:/` source is looked up at the process-wide address).

What does not belong here: training runs and their metrics (the pipeline writes them), which bundle serves (`ledger`).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from lastgood.bundle import manifest as bundle_manifest
from lastgood.layers import base, mlflow_base
from lastgood.settings import Settings

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities.model_registry import ModelVersion, RegisteredModel

ALIASES = ("stable", "candidate", "previous")
BUNDLE_TAG = "lastgood.bundle"
PART_TAG = "lastgood.part."
REVISION_TAG = "lastgood.revision"
MANIFEST_TAG = "lastgood.manifest"
FOREIGN = "foreign"

_MAX_TAG = 100_000
_ABOUT = "Mirror of lastgood's ledger. The aliases stable, candidate and previous are reset when edited here."


def build(settings: Settings, service: str) -> Registry:
    """The MLflow mirror of *service*."""
    return Registry(settings, service)


def register_bundle(
    settings: Settings, bundle: bundle_manifest.Bundle, *, tags: Mapping[str, str] | None = None, timeout_s: float = 60.0
) -> str:
    """Show *bundle* in MLflow before it is promoted; returns the number of its version there.

    *tags* are set on the version. Idempotent. Raises LayerError if MLflow is unavailable.
    """
    return Registry(settings, bundle.service, timeout_s=timeout_s).register(bundle, tags=tags or {})


class Registry(mlflow_base.MlflowLayer):
    """See the module. *timeout_s*: how long a caller waits, in seconds; a new MLflow database takes ten of them."""

    name = "registry"

    def __init__(self, settings: Settings, service: str, *, timeout_s: float = 25.0) -> None:
        super().__init__(settings.tracking_uri, lock=settings.run(service) / "registry.lock", timeout_s=timeout_s)
        self._service = bundle_manifest.check_service_name(service)

    def observe(self) -> base.Observed:
        """Aliases by the bundle they name, "foreign" where it is not one of ours; and the revision last taken over."""
        if self._has_no_file():
            return base.Observed(revision=None, facts={"model": self._service, "aliases": {}, "versions": {}})
        return self._within_time(lambda: self._look(self._connect(write=False)))

    def verify(self, desired: base.Desired, observed: base.Observed) -> bool | None:
        """True if exactly the desired aliases are set, each to a version of its bundle, under this revision."""
        aliases = observed.facts.get("aliases")
        if aliases is None:
            return None
        return bool(observed.revision == desired.revision and aliases == desired.aliases)

    def apply(self, desired: base.Desired) -> None:
        """Create versions for the bundles, set the named aliases, delete the others, note the revision.

        MLflow has no transaction over several aliases: for some milliseconds a reader may see a mixed pair, which is
        why nothing serves from here. Raises LayerError within *timeout_s*.
        """
        self._within_time(lambda: self._locked(lambda: self._follow(self._connect(write=True), desired)))

    def register(self, bundle: bundle_manifest.Bundle, *, tags: Mapping[str, str]) -> str:
        """See `register_bundle`."""

        def work() -> str:
            client = self._connect(write=True)
            self._model(client)
            version = self._version(client, bundle.id, bundle)
            for key, value in tags.items():
                if version.tags.get(key) != value:
                    client.set_model_version_tag(self._service, str(version.version), key, value)
            return str(version.version)

        return self._within_time(lambda: self._locked(work))

    # --- the work ------------------------------------------------------------------------------------------

    def _look(self, client: MlflowClient) -> base.Observed:
        model = self._find_model(client)
        found = {} if model is None else {alias: str(number) for alias, number in model.aliases.items() if alias in ALIASES}
        named = {alias: self._bundle_of(client, number) for alias, number in found.items()}
        revision = None if model is None else _revision(model)
        return base.Observed(revision=revision, facts={"model": self._service, "aliases": named, "versions": found})

    def _bundle_of(self, client: MlflowClient, number: str) -> str:
        tag = client.get_model_version(self._service, number).tags.get(BUNDLE_TAG, "")
        return tag if bundle_manifest.is_digest(tag) else FOREIGN

    def _follow(self, client: MlflowClient, desired: base.Desired) -> None:
        model = self._model(client)
        last = _revision(model)
        if last is not None and last > desired.revision:
            return
        digests = dict.fromkeys([*desired.aliases.values(), *desired.bundles])
        numbers = {digest: str(self._version(client, digest, desired.bundles.get(digest)).version) for digest in digests}
        set_now = {alias: str(number) for alias, number in model.aliases.items()}
        for alias, digest in desired.aliases.items():
            if set_now.get(alias) != numbers[digest]:
                client.set_registered_model_alias(self._service, alias, numbers[digest])
        for alias in ALIASES:
            if alias in set_now and alias not in desired.aliases:
                client.delete_registered_model_alias(self._service, alias)
        if last != desired.revision:
            client.set_registered_model_tag(self._service, REVISION_TAG, str(desired.revision))

    def _find_model(self, client: MlflowClient) -> RegisteredModel | None:
        return mlflow_base.or_none(lambda: client.get_registered_model(self._service))

    def _model(self, client: MlflowClient) -> RegisteredModel:
        """The service's registered model, created if it is missing; a concurrent creator does no harm."""
        from mlflow.exceptions import MlflowException

        found = self._find_model(client)
        if found is not None:
            return found
        try:
            client.create_registered_model(self._service, tags={"lastgood.service": self._service}, description=_ABOUT)
        except MlflowException as error:
            if error.error_code != "RESOURCE_ALREADY_EXISTS":
                raise
        return client.get_registered_model(self._service)

    def _version(self, client: MlflowClient, digest: str, bundle: bundle_manifest.Bundle | None) -> ModelVersion:
        """The version of *digest*, the oldest if there are several; created if there is none.

        Another machine applying at the same moment may create it too: the creator of any version but the oldest removes its own.
        """
        found = self._find_version(client, digest)
        if found is not None:
            return found
        made = client.create_model_version(
            self._service,
            source=f"lastgood://bundle/{digest}",
            run_id=_training_run(client, bundle),
            tags=version_tags(digest, bundle),
            description=describe(digest, bundle),
            await_creation_for=0,
        )
        oldest = self._find_version(client, digest) or made
        if int(oldest.version) != int(made.version):
            client.delete_model_version(self._service, str(made.version))
        return oldest

    def _find_version(self, client: MlflowClient, digest: str) -> ModelVersion | None:
        found = client.search_model_versions(f"name='{self._service}' and tags.`{BUNDLE_TAG}`='{digest}'")
        return min(found, key=lambda version: int(version.version), default=None)


def version_tags(digest: str, bundle: bundle_manifest.Bundle | None) -> dict[str, str]:
    """The tags of a bundle's version: its id, each part's digest, the manifest, and the model's own ids in MLflow."""
    tags = {BUNDLE_TAG: digest}
    if bundle is None:
        return tags
    tags |= {"lastgood.service": bundle.service} | {f"{PART_TAG}{name}": part.digest for name, part in bundle.parts.items()}
    manifest = bundle_manifest.canonical(bundle.manifest()).decode("utf-8")
    if len(manifest) <= _MAX_TAG:
        tags[MANIFEST_TAG] = manifest
    meta = _model_meta(bundle)
    return tags | {f"lastgood.{key}": str(meta[key]) for key in ("mlflow_model_id", "mlflow_model_version") if meta.get(key)}


def describe(digest: str, bundle: bundle_manifest.Bundle | None) -> str:
    """The description shown on MLflow's page of the version (Markdown)."""
    lines = [f"Bundle `{bundle_manifest.short(digest)}`: released and rolled back as one unit.", ""]
    if bundle is not None:
        lines += ["| part | digest | bytes |", "|---|---|---|"]
        lines += [f"| {name} | `{bundle_manifest.short(part.digest)}` | {part.size} |" for name, part in bundle.parts.items()]
    return "\n".join(lines)


def _model_meta(bundle: bundle_manifest.Bundle | None) -> Mapping[str, Any]:
    return bundle.parts["model"].meta if bundle is not None and "model" in bundle.parts else {}


def _training_run(client: MlflowClient, bundle: bundle_manifest.Bundle | None) -> str | None:
    """The MLflow run that trained the bundle's model: the one its metadata names, else the newest tagged with its digest."""
    if bundle is None or "model" not in bundle.parts:
        return None
    named = _model_meta(bundle).get("mlflow_run_id")
    if named and mlflow_base.or_none(lambda: client.get_run(str(named))) is not None:
        return str(named)
    experiments = [experiment.experiment_id for experiment in client.search_experiments()]
    wanted = f"tags.`{PART_TAG}model` = '{bundle.parts['model'].digest}'"
    runs = client.search_runs(experiments, filter_string=wanted, max_results=1, order_by=["attributes.start_time DESC"])
    return str(runs[0].info.run_id) if runs else None


def _revision(model: RegisteredModel) -> int | None:
    text = model.tags.get(REVISION_TAG, "")
    return int(text) if text.isascii() and text.isdigit() else None
