"""The data part: labelled flights of some months for training, and of later months for evaluation."""

from pathlib import Path

import dagster as dg
from pydantic import Field

from dagster_lastgood import Written, metadata
from lastgood.settings import Settings

CODE = ["services/flights/prepare.py", "services/flights/split.py", "services/flights/tables.py", "dvc.yaml"]


class Windows(dg.Config):
    """Months of 2013; missing ones are taken from params.yaml."""

    train: list[int] | None = Field(default=None, description="Months to train on, for example [1, 2].")
    evaluate: list[int] | None = Field(default=None, description="Later months to evaluate on, for example [3].")


def version(project: Path) -> str:
    """A name for the published files, by their digests, and for the months named in params.yaml."""
    from services.flights import data

    return data.version(project)


def data(out: Path, config: Windows, settings: Settings) -> Written:
    """Real flights from New York in 2013 with weather and aircraft, as known before departure. Made by DVC."""
    import json
    import shutil

    import pyarrow.parquet as pq

    from lastgood.drift import reference
    from lastgood.system import yaml_errors
    from services.flights import data as source
    from services.flights import drift

    params = yaml_errors.load((settings.project / "params.yaml").read_text("utf-8"), where="params.yaml")
    windows = params["split"] | config.model_dump(exclude_none=True)
    built = source.build(**windows, workspace=settings.home / "dvc" / "flights", project=settings.project)
    for name in source.OUTPUTS:
        shutil.copyfile(built.folder / name, out / name)
    reference.write(drift.reference(pq.read_table(out / "evaluate.parquet")), out / reference.FILE, at=drift.TIME)
    profile = json.loads((out / "reference.json").read_text("utf-8"))
    return Written(
        meta={"train": sorted(windows["train"]), "evaluate": sorted(windows["evaluate"]), "rows": profile["rows"]},
        provenance={"dvc": dict(built.md5)},
        metadata={
            "dagster/row_count": profile["rows"],
            "late_rate": profile["late_rate"],
            "windows": metadata.table(
                [{"use": use, "months of 2013": ", ".join(map(str, months))} for use, months in sorted(windows.items())]
            ),
            "columns": metadata.table([{"column": name, "kind": c["kind"], "nulls": c["nulls"]} for name, c in profile["columns"].items()]),
        },
    )
