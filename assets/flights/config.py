"""The configuration part: service.yaml with the code it names, as a bundle is to be served with."""

import tempfile
from pathlib import Path
from typing import Any

import dagster as dg
from pydantic import Field

from assets import parts, show
from lastgood import settings as settings_

KEY = parts.key("flights", "config")


class Options(dg.Config):
    """What to change of service.yaml for this bundle."""

    options: dict[str, Any] = Field(default={}, description='Options to replace, for example {"departure_clock": "utc"}.')
    overlay: dict[str, Any] = Field(
        default={}, description='Whole keys of service.yaml to replace, for example {"release": {"strategy": []}}.'
    )


@dg.asset(
    key=KEY,
    group_name="flights",
    kinds={"yaml", "python"},
    owners=["team:flights-on-call"],
    code_version=parts.code_version("services/flights/service.yaml", "services/flights/runtime.py", "services/flights/features.py"),
    description="service.yaml and the code that serves, frozen together; a rollback brings both back.",
)
def config(context: dg.AssetExecutionContext, config: Options, settings: dg.ResourceParam[settings_.Settings]) -> dg.MaterializeResult:
    """Freeze the service folder with the options asked for."""
    from lastgood import artifacts, service

    store = artifacts.Store(settings.store)
    with tempfile.TemporaryDirectory() as scratch:
        frozen = service.freeze(settings.services / "flights", Path(scratch) / "config", options=config.options, overlay=config.overlay)
        described = service.parse((frozen / service.FILE).read_text("utf-8"), where="the frozen service.yaml")
        stored = store.put(frozen, allow=artifacts.CONFIG_FORMATS)
    part = artifacts.part(stored, name="config", media_type="application/yaml", meta={"options": described.options})
    files = [{"file": entry.path, "bytes": entry.size, "sha256": entry.sha256} for entry in store.listing(stored.digest).entries]
    metadata = {"options": dg.MetadataValue.json(described.options), "files": show.table(files)}
    return parts.result(context, part, provenance={"overrides": {**config.options, **config.overlay}}, metadata=metadata)
