"""What other people's scripts rely on is as it was: verbs, flags, exit codes, keys of `--json`, names in Dagster, headers, loggers.

`tests/data/kept.json` was recorded before the modules moved. What stands there may be added to, never taken out; a change that an
issue asks for is made there by hand, with a line in CHANGELOG.
"""

from __future__ import annotations

import hashlib
import importlib
import json
import logging
import pkgutil
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import click
import dagster as dg
import pytest

import lastgood
from lastgood import cli, errors, release
from lastgood.testing import projects
from tests.cli.conftest import Run

__all__ = ["run", "settings"]

from tests.cli.conftest import run, settings

ROOT = Path(__file__).parents[1]
RECORD = Path(__file__).parent / "data" / "kept.json"
HEADER = re.compile(r"x-lastgood-[a-z-]+[a-z]")
VARIABLE = re.compile(r"\bLASTGOOD_[A-Z]+(?:_[A-Z]+)*\b")
SOURCES = ("lastgood", "dagster_lastgood", "assets", "sensors", "pipelines")


def recorded(what: str) -> Any:
    """What was there before."""
    return json.loads(RECORD.read_text("utf-8"))[what]


def verbs() -> dict[str, list[str]]:
    """Every command with its options."""
    found: dict[str, list[str]] = {}

    def walk(command: click.Command, name: str) -> None:
        found[name] = sorted(option for parameter in command.params for option in (*parameter.opts, *parameter.secondary_opts))
        if isinstance(command, click.Group):
            context = click.Context(command)
            for sub in command.list_commands(context):
                below = command.get_command(context, sub)
                assert below is not None
                walk(below, f"{name} {sub}".strip())

    walk(cli.app, "")
    return found


def codes() -> dict[str, int]:
    """Exit codes by error."""
    return {name: value.exit_code for name, value in vars(errors).items() if isinstance(value, type) and hasattr(value, "exit_code")}


def dagster() -> dict[str, list[str]]:
    """Names that people type, select and alarm on."""
    from pipelines.definitions import defs

    repository = defs.get_repository_def()
    jobs = list(repository.get_all_jobs())
    assets = [definition for definition in repository.assets_defs_by_key.values() if isinstance(definition, dg.AssetsDefinition)]
    return {
        "assets": sorted(spec.key.to_user_string() for spec in defs.resolve_all_asset_specs()),
        "checks": sorted(f"{key.asset_key.to_user_string()}:{key.name}" for key in repository.asset_graph.asset_check_keys),
        "jobs": sorted(job.name for job in jobs),
        "ops": sorted({node.name for job in jobs for node in job.graph.node_defs}),
        "sensors": sorted(sensor.name for sensor in repository.sensor_defs),
        "schedules": sorted(schedule.name for schedule in repository.schedule_defs),
        "groups": sorted({group for asset in assets for group in asset.group_names_by_key.values()}),
        "resources": sorted(defs.resources or ()),
    }


def in_sources(pattern: re.Pattern[str]) -> list[str]:
    """What *pattern* finds in the code."""
    files = [file for folder in SOURCES for file in (ROOT / folder).rglob("*.py")]
    return sorted({found for file in files for found in pattern.findall(file.read_text("utf-8"))})


def loggers() -> list[str]:
    """Loggers of the library, once all of it is loaded."""
    for module in pkgutil.walk_packages(lastgood.__path__, "lastgood."):
        if "__main__" not in module.name:
            importlib.import_module(module.name)
    return sorted(name for name in logging.root.manager.loggerDict if name.startswith("lastgood"))


def migrations() -> dict[str, str]:
    """The SQL of the ledger's tables, by content."""
    files = sorted((ROOT / "lastgood" / "ledger" / "migrations").rglob("*.sql"))
    return {hashlib.sha256(file.read_bytes()).hexdigest(): "sql" for file in files}


def failpoints() -> list[str]:
    """Places at which a process can be made to fail."""
    name = "lastgood.system.failpoints" if (ROOT / "lastgood" / "system").is_dir() else "lastgood.failpoints"
    return sorted(importlib.import_module(name).FAILPOINTS)


def objects(run: Run) -> dict[str, list[str]]:
    """The keys of the objects that commands print, on a service with two releases and one on its way back."""
    calls = {
        "status": ["status", "toy"],
        "history": ["history", "toy"],
        "show": ["show", "toy", "stable"],
        "diff": ["diff", "toy", "stable", "previous"],
        "plan": ["plan", "rollback", "toy"],
        "bundle list": ["bundle", "list", "toy"],
        "audit verify": ["audit", "verify", "toy"],
        "rollback": ["rollback", "toy", "--yes", "--reason", "a test", "--no-wait"],
        "doctor": ["doctor"],
    }
    return {name: sorted(keys(run(*call, "--json").json)) for name, call in calls.items()}


def keys(value: Any, *, below: str = "") -> Iterator[str]:
    """Dotted keys; elements of a list have one name, and digests as keys count as one."""
    if isinstance(value, Mapping):
        for key, inner in value.items():
            name = f"{below}.{'<digest>' if str(key).startswith('sha256:') else key}"
            yield name
            yield from keys(inner, below=name)
    elif isinstance(value, list):
        for inner in value:
            yield from keys(inner, below=f"{below}[]")


@pytest.fixture
def released(settings: Any) -> None:
    """Two bundles, one after the other."""
    with release.open_context(settings) as ctx:
        projects.released(ctx, 0.1, 0.2)


def test_no_verb_and_no_flag_is_gone() -> None:
    """Each verb takes what it took."""
    now = verbs()
    for verb, flags in recorded("verbs").items():
        assert verb in now
        assert set(flags) <= set(now[verb]), verb


def test_exit_codes_are_the_same() -> None:
    """By the error that leads to them."""
    now = codes()
    assert {name: now.get(name) for name in recorded("codes")} == recorded("codes")


def test_names_in_dagster_are_the_same() -> None:
    """Assets, checks, jobs, ops, sensors, schedules, groups and resources."""
    now = dagster()
    for kind, names in recorded("dagster").items():
        assert set(names) <= set(now[kind]), kind


@pytest.mark.parametrize(
    ("what", "found"),
    [
        ("headers", lambda: in_sources(HEADER)),
        ("variables", lambda: in_sources(VARIABLE)),
        ("failpoints", failpoints),
        ("loggers", loggers),
        ("migrations", migrations),
    ],
    ids=["headers", "variables", "failpoints", "loggers", "migrations"],
)
def test_no_name_is_gone(what: str, found: Any) -> None:
    """Headers, environment variables, failpoints, loggers, and the SQL of tables byte for byte."""
    assert set(recorded(what)) <= set(found())


@pytest.mark.usefixtures("released")
def test_json_has_the_keys_that_it_had(run: Run) -> None:
    """Of each command that prints an object."""
    now = objects(run)
    for command, names in recorded("json").items():
        assert set(names) <= set(now[command]), command
