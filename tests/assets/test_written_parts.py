"""A part that one function writes: what it is given, what it says, and what is wrong with one that cannot be a part."""

from __future__ import annotations

import json
from pathlib import Path

import dagster as dg
import pytest

from dagster_lastgood import Written, parts, written_parts
from lastgood import settings as settings_
from lastgood.bundle import store as artifacts
from tests import factory


class Asked(dg.Config):
    """What a person may change."""

    times: int = 2


def data(out: Path, config: Asked, settings: settings_.Settings) -> Written:
    """Numbers."""
    (out / "rows.json").write_text(json.dumps([config.times, settings.project.name]), "utf-8")
    return Written(meta={"rows": 2}, metrics={"size": 2.0}, provenance={"from": "a test"}, metadata={"seen": "yes"})


def model(out: Path, data: Path) -> None:
    """Their sum; nothing is said of it."""
    (out / "model.json").write_text(str(json.loads((data / "rows.json").read_text("utf-8"))[0]), "utf-8")


def test_it_gets_what_it_names_and_its_word_is_shown(tmp_path: Path) -> None:
    """Folder, configuration, settings and the parts before it, of the same run."""
    project = factory.project(tmp_path)
    made = [written_parts.part("toy", write.__name__, write, owners=["team:toy"]) for write in (data, model)]
    with dg.DagsterInstance.ephemeral() as instance:
        asked = dg.RunConfig(ops={"toy__data": Asked(times=3)})
        done = dg.materialize(made, resources={"settings": project}, instance=instance, run_config=asked)
    assert done.success
    first, second = (done.asset_materializations_for_node(name)[0].metadata for name in ("toy__data", "toy__model"))
    store = artifacts.Store(project.store)
    entry = first[parts.PART].value
    assert json.loads((store.path(entry["digest"]) / "rows.json").read_text("utf-8")) == [3, project.project.name]
    assert (entry["meta"], first["seen"].value, first["evaluation/size"].value) == ({"rows": 2}, "yes", 2.0)
    assert first[parts.REPORT].value == {"metrics": {"size": 2.0}}
    assert first[parts.PROVENANCE].value["from"] == "a test"
    assert (store.path(second[parts.PART].value["digest"]) / "model.json").read_text("utf-8") == "3"


def no_folder(data: Path) -> None:
    """Has nowhere to write."""


def odd_config(out: Path, config: int) -> None:
    """Is told a number."""


@pytest.mark.parametrize(("write", "match"), [(no_folder, "has no parameter 'out'"), (odd_config, "not annotated with a class")])
def test_a_function_that_cannot_write_a_part_is_refused(write: written_parts.Write, match: str) -> None:
    """While the code location loads, with the function's name."""
    with pytest.raises((ValueError, TypeError), match=rf"{write.__name__}.*{match}"):
        written_parts.part("toy", "data", write, owners=[])
