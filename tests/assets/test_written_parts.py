"""A part that one function writes: what it is given, what it says, and what is wrong with one that cannot be a part."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import dagster as dg
import pytest

from dagster_lastgood import Part, Written, evaluations, parts, written_parts
from lastgood.bundle import store as bundle_store
from lastgood.settings import Settings
from lastgood.testing import projects


class Asked(dg.Config):
    """What a person may change."""

    times: int = 2


def data(out: Path, config: Asked, settings: Settings) -> Written:
    """Numbers."""
    (out / "rows.json").write_text(json.dumps([config.times, settings.project.name]), "utf-8")
    return Written(meta={"rows": 2}, metrics={"size": 2.0}, provenance={"from": "a test"}, metadata={"seen": "yes"})


def model(out: Path, data: Path) -> None:
    """Their sum; nothing is said of it."""
    (out / "model.json").write_text(str(json.loads((data / "rows.json").read_text("utf-8"))[0]), "utf-8")


@pytest.fixture
def project(tmp_path: Path) -> Settings:
    """A small project."""
    return projects.project(tmp_path)


def run(made: list[dg.AssetsDefinition], project: Settings, **config: Any) -> dict[str, Mapping[str, Any]]:
    """What the assets of a run say, by their name."""
    with dg.DagsterInstance.ephemeral() as instance:
        done = dg.materialize(made, resources={"settings": project}, instance=instance, run_config=config or None)
    assert done.success
    return {event.asset_key.path[-1]: event.materialization.metadata for event in done.get_asset_materialization_events()}


def test_it_gets_what_it_names_and_its_word_is_shown(project: Settings) -> None:
    """Folder, configuration, settings and the parts before it, of the same run."""
    made = [written_parts.part("toy", write.__name__, write, owners=["team:toy"]) for write in (data, model)]
    found = run(made, project, ops={"toy__data": {"config": {"times": 3}}})
    first, second = found["data"], found["model"]
    store = bundle_store.Store(project.store)
    entry = first[parts.PART].value
    assert json.loads((store.path(entry["digest"]) / "rows.json").read_text("utf-8")) == [3, project.project.name]
    assert (entry["meta"], first["seen"].value, first["evaluation/size"].value) == ({"rows": 2}, "yes", 2.0)
    assert first[parts.REPORT].value == {"metrics": {"size": 2.0}}
    assert first[parts.PROVENANCE].value["from"] == "a test"
    assert (store.path(second[parts.PART].value["digest"]) / "model.json").read_text("utf-8") == "3"


def counted(out: Path, corpus: Path, facts: Mapping[str, Any], stable: Path | None) -> None:
    """What it is told of the parts before it, and of the one that is stable."""
    told = [json.loads((corpus / "rows.json").read_text("utf-8"))[0], facts["corpus"]["rows"], stable]
    (out / "counts.json").write_text(json.dumps(told), "utf-8")


def test_an_asset_may_be_called_otherwise_than_its_part_and_others_need_it_by_its_own_name(project: Settings) -> None:
    """Asset `corpus` makes part `data`; what follows gets its folder, and what the manifest says of it."""
    stored: list[Path] = []

    def then(folder: Path, settings: Settings) -> Mapping[str, Any]:
        stored.append(folder)
        return {"followed": settings.project.name}

    made = [
        written_parts.part("toy", "corpus", Part(data, name="data", kinds=["text"]), owners=[]),
        written_parts.part("toy", "index", Part(counted, then=then), owners=[]),
    ]
    assert made[1].specs_by_key[made[1].key].deps == [dg.AssetDep(["toy", "corpus"])]
    found = run(made, project)
    assert found["corpus"][parts.PART].value["name"] == "data"
    assert json.loads((stored[0] / "counts.json").read_text("utf-8")) == [2, 2, None]
    assert found["index"]["followed"].value == project.project.name


def measured(data: Path, model: Path, config: Asked) -> Written:
    """Whether they agree."""
    return Written(report={"metrics": {"agreement": float(config.times)}, "worst": ["a row"]}, metadata={"hardest": "a row"})


def test_an_evaluation_is_asked_of_all_parts_and_writes_none(project: Settings) -> None:
    """Its data version is that of the report, which the bundle and the check `limits` read."""
    made = [written_parts.part("toy", write.__name__, write, owners=[]) for write in (data, model)]
    found = run([*made, evaluations.evaluation("toy", measured, owners=[])], project)["evaluation"]
    assert found[parts.REPORT].value == {"metrics": {"agreement": 2.0}, "worst": ["a row"]}
    assert (found["evaluation/agreement"].value, found["hardest"].value) == (2.0, "a row")
    assert parts.PART not in found


def no_folder(data: Path) -> None:
    """Has nowhere to write."""


def odd_config(out: Path, config: int) -> None:
    """Is told a number."""


@pytest.mark.parametrize(("write", "match"), [(no_folder, "has no parameter 'out'"), (odd_config, "not annotated with a class")])
def test_a_function_that_cannot_write_a_part_is_refused(write: written_parts.Write, match: str) -> None:
    """While the code location loads, with the function's name."""
    with pytest.raises((ValueError, TypeError), match=rf"{write.__name__}.*{match}"):
        written_parts.part("toy", "data", write, owners=[])


def test_an_evaluation_that_wants_to_write_is_refused() -> None:
    """It is not a part, so there is no folder to fill."""
    with pytest.raises(ValueError, match="data takes 'out', and an evaluation is not a part"):
        evaluations.evaluation("toy", data, owners=[])
