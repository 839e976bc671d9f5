"""The data part: labelled flights of some months to train on, and of later months to evaluate on."""

from typing import Any

import dagster as dg
from pydantic import Field

from dagster_lastgood import automation, parts
from dagster_lastgood import metadata as show
from lastgood import settings as settings_

KEY = parts.key("flights", "data")


class Windows(dg.Config):
    """Months of 2013; what is left out is taken from params.yaml."""

    train: list[int] | None = Field(default=None, description="Months to train on, for example [1, 2].")
    evaluate: list[int] | None = Field(default=None, description="Later months to evaluate on, for example [3].")


@dg.asset(
    key=KEY,
    deps=[automation.key("flights")],
    group_name="flights",
    kinds={"dvc", "parquet"},
    owners=["team:flights-on-call"],
    code_version=parts.code_version("services/flights/prepare.py", "services/flights/split.py", "services/flights/tables.py", "dvc.yaml"),
    description="Real flights from New York in 2013 with weather and aircraft, as known before departure. Made by DVC.",
)
def data(context: dg.AssetExecutionContext, config: Windows, settings: dg.ResourceParam[settings_.Settings]) -> dg.MaterializeResult[Any]:
    """Run the DVC stages for the windows asked for and store the result."""
    import json
    import shutil
    import tempfile
    from pathlib import Path

    import pyarrow.parquet as pq

    from lastgood.bundle import store as artifacts
    from lastgood.drift import reference as references
    from lastgood.system import yaml_errors as yaml_lines
    from services.flights import data as source
    from services.flights import drift

    windows = yaml_lines.load((settings.project / "params.yaml").read_text("utf-8"), where="params.yaml")["split"] | config.model_dump(
        exclude_none=True
    )
    built = source.build(**windows, workspace=settings.home / "dvc" / "flights", project=settings.project)
    store = artifacts.Store(settings.store)
    with tempfile.TemporaryDirectory() as scratch:
        whole = Path(shutil.copytree(built.folder, Path(scratch) / "data"))
        whole.chmod(0o755)
        references.write(drift.reference(pq.read_table(whole / "evaluate.parquet")), whole / references.FILE, at=drift.TIME)
        stored = store.put(whole, allow=artifacts.DATA_FORMATS)
    profile = json.loads((built.folder / "reference.json").read_text("utf-8"))
    meta = {"train": sorted(windows["train"]), "evaluate": sorted(windows["evaluate"]), "rows": profile["rows"]}
    part = artifacts.part(stored, name="data", media_type="application/vnd.apache.parquet", meta=meta)
    metadata = {
        "dagster/row_count": profile["rows"],
        "late_rate": profile["late_rate"],
        "windows": show.table([{"use": use, "months of 2013": ", ".join(map(str, months))} for use, months in sorted(windows.items())]),
        "columns": show.table([{"column": name, "kind": c["kind"], "nulls": c["nulls"]} for name, c in profile["columns"].items()]),
        "folder": dg.MetadataValue.path(store.path(stored.digest)),
    }
    return parts.result(context, part, provenance={"dvc": dict(built.md5)}, metadata=metadata)
