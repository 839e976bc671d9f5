"""Prompts in MLflow, as a mirror of the ledger: readers there see the texts used by stable, candidate and previous.

One prompt per service, `<service>-prompt`; one version per prompt part, found by its tag. Nothing of ours reads it: a worker
renders the templates of its own bundle, because an alias read through MLflow's cache is up to a minute old.

What does not belong here: what a prompt is (`lastgood.bundle.prompts`).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from lastgood import errors
from lastgood.bundle import manifest
from lastgood.bundle import store as bundle_store
from lastgood.layers import base, mlflow_base
from lastgood.settings import Settings

if TYPE_CHECKING:
    from mlflow import MlflowClient

ALIASES = ("stable", "candidate", "previous")
PART_TAG = "lastgood.part.prompt"
REVISION_TAG = "lastgood.revision"
FOREIGN = "foreign"
_MAX_TEXT = 90_000
"""Longest template that MLflow's tables hold, in characters."""


def build(settings: Settings, service: str) -> Prompts:
    """The mirror of the prompts of *service*."""
    return Prompts(settings, service)


class Prompts(mlflow_base.MlflowLayer):
    """See the module."""

    name = "prompts"

    def __init__(self, settings: Settings, service: str, *, timeout_s: float = 25.0) -> None:
        super().__init__(settings.tracking_uri, lock=settings.run(service) / "prompts.lock", timeout_s=timeout_s)
        self._prompt = f"{manifest.check_service_name(service)}-prompt"
        self._store = bundle_store.Store(settings.store)

    def observe(self) -> base.Observed:
        """Aliases by the prompt part that they name, "foreign" where it is not one of ours; and the revision last taken over."""
        if self._has_no_file():
            return base.Observed(revision=None, facts={"prompt": self._prompt, "aliases": {}})
        return self._within_time(lambda: self._look(self._connect(write=False)))

    def verify(self, desired: base.Desired, observed: base.Observed) -> bool | None:
        """True if exactly the aliases of bundles with a prompt are set, each to the version of its part, under this revision."""
        aliases = observed.facts.get("aliases")
        if aliases is None:
            return None
        return bool(observed.revision == desired.revision and aliases == wanted_of(desired))

    def apply(self, desired: base.Desired) -> None:
        """Create versions for the prompt parts, set the named aliases, delete the others, note the revision."""
        self._within_time(lambda: self._locked(lambda: self._follow(self._connect(write=True), desired)))

    # --- the work ------------------------------------------------------------------------------------------

    def _look(self, client: MlflowClient) -> base.Observed:
        found = mlflow_base.or_none(lambda: client.get_prompt(self._prompt))
        revision = (found.tags if found else {}).get(REVISION_TAG, "")
        aliases = {alias: digest for alias in ALIASES if (digest := self._named(client, alias)) is not None} if found else {}
        return base.Observed(revision=int(revision) if revision.isdecimal() else None, facts={"prompt": self._prompt, "aliases": aliases})

    def _named(self, client: MlflowClient, alias: str) -> str | None:
        from mlflow.exceptions import MlflowException

        try:
            version = client.get_prompt_version_by_alias(self._prompt, alias)
        except MlflowException as error:
            # MLflow reports a missing alias as an invalid parameter, and only its text distinguishes it from a real one.
            if error.error_code == "RESOURCE_DOES_NOT_EXIST" or ("alias" in str(error).lower() and "not found" in str(error)):
                return None
            raise
        return None if version is None else str(version.tags.get(PART_TAG, FOREIGN))

    def _follow(self, client: MlflowClient, desired: base.Desired) -> None:
        found = mlflow_base.or_none(lambda: client.get_prompt(self._prompt))
        if found is None:
            client.create_prompt(self._prompt, description="Mirror of lastgood's ledger. Aliases edited here are reset.")
        last = (found.tags if found else {}).get(REVISION_TAG, "")
        if last.isdecimal() and int(last) > desired.revision:
            return
        wanted = wanted_of(desired)
        versions = self._versions(client)
        for digest in dict.fromkeys(wanted.values()):
            if digest not in versions:
                versions[digest] = self._create(client, digest)
        for alias in ALIASES:
            if alias not in wanted:
                client.delete_prompt_alias(self._prompt, alias)
            elif self._named(client, alias) != wanted[alias]:
                client.set_prompt_alias(self._prompt, alias, versions[wanted[alias]])
        client.set_prompt_tag(self._prompt, REVISION_TAG, str(desired.revision))

    def _versions(self, client: MlflowClient) -> dict[str, int]:
        """Digest of the prompt part to the number of its oldest version."""
        found: dict[str, int] = {}
        for version in self._all(client):
            digest = client.get_prompt_version(self._prompt, str(version.version)).tags.get(PART_TAG)
            if digest is not None:
                found[digest] = min(int(version.version), found.get(digest, int(version.version)))
        return found

    def _all(self, client: MlflowClient) -> list[Any]:
        found, token = [], None
        while True:
            page = client.search_prompt_versions(self._prompt, max_results=200, page_token=token)
            found += list(page)
            token = getattr(page, "token", None)
            if not token:
                return found

    def _create(self, client: MlflowClient, digest: str) -> int:
        made = client.create_prompt_version(
            self._prompt,
            shown(self._store, digest),
            description=f"Prompt part {manifest.short(digest)}",
            tags={PART_TAG: digest},
        )
        return int(made.version)


def wanted_of(desired: base.Desired) -> dict[str, str]:
    """Alias to the digest of its bundle's prompt part; bundles without one are left out."""
    parts = {alias: desired.bundles[digest].parts for alias, digest in desired.aliases.items() if digest in desired.bundles}
    return {alias: named["prompt"].digest for alias, named in parts.items() if "prompt" in named}


def shown(store: bundle_store.Store, digest: str) -> str:
    """All templates of a prompt part as one text, each under its name. Raises LayerError."""
    try:
        folder = store.path(digest)
        texts = {path.name: path.read_text("utf-8") for path in sorted(folder.iterdir())}
    except (errors.LastgoodError, OSError, UnicodeDecodeError) as error:
        raise base.LayerError(f"prompt part {manifest.short(digest)} cannot be read: {error}; build the bundle again") from error
    text = "\n".join(f"--- {name}\n{text}" for name, text in texts.items())
    return text if len(text) <= _MAX_TEXT else f"{text[:_MAX_TEXT]}\n… truncated; the whole text is in the bundle"
