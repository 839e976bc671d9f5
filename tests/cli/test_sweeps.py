"""Every command with names that are not there, in folders that are no project, and with values that make no sense.

The calls are made from the real command tree (`commands`), so that a new command or option is swept too, or fails here.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import click
import pytest

from lastgood import errors
from lastgood.cli import common
from lastgood.cli import inspect as look
from lastgood.settings import Settings
from lastgood.testing import projects
from tests.cli import commands
from tests.cli.conftest import Done, Run

TREE = dict(commands.tree())
ELSEWHERE = "nosuch"
UNKNOWN_BUNDLES = ("ffffffff", "nothing", "", "candidate", "999", "sha256:" + "f" * 64, "x" * 5000, "a\nb", "a\0b", "../..")
NUMBERS = ("0", "-1", "99999999999999999999", "1e400", "-1e400", "nan", "inf", "1.5", "", " ", "x", "0x10", "\u0661", "1_000", "9" * 5000)
TIMES = (
    "", "yesterday", "0001-01-01T00:00:00+14:00", "9999-12-31T23:59:59-14:00", "1969-12-31", "2026-02-30", "2026-11-23T25:00:00",
    "nan", "1e400", "99999999999999999999", "2026-W53", "24:00", "2026-11-23T03:15:00+99:00", "x" * 5000, "2026-01-01\n", "2026\0",
)  # fmt: skip
TEXTS = ("", " ", "a\nb\x1b[31m", "a\0b", "\ud800", "x" * 100_000, "../../x", "{{7*7}}", "'\"; DROP TABLE revision", "é" * 300)
IS_TIME = {"at_text", "since", "until", "since_text"}
IS_PATH = {"out", "report"}


@pytest.fixture
def released(settings: Settings) -> list[str]:
    """Three bundles, released one after the other."""
    with projects.opened(settings) as ctx:
        return projects.released(ctx, 1, 2, 3)


def _label(value: object) -> str:
    if isinstance(value, click.Option):
        return value.opts[0]
    return " ".join(value) if isinstance(value, tuple) else str(value)


def test_every_command_has_an_entry() -> None:
    """And every entry a command."""
    assert set(commands.CALLS) == set(TREE)


def _args(name: str, args: tuple[str, ...], *, service: str = "toy", bundle: str = "previous", file: str = "nosuch.tar") -> list[str]:
    put = {commands.SERVICE: service, commands.BUNDLE: bundle, commands.FILE: file}
    return [*name.split(), *(put.get(arg, arg) for arg in args)]


def _files(*folders: Path) -> dict[str, int]:
    """What lies below *folders*, but for what SQLite and Python themselves put beside their files when they read."""
    found = {}
    for folder in folders:
        for path in sorted(folder.rglob("*")):
            if not path.name.endswith(("-wal", "-shm")) and "__pycache__" not in path.parts:
                found[str(path)] = path.stat().st_size if path.is_file() else -1
    return found


def _sane(done: Done, args: list[str]) -> None:
    """However it ended: one of the documented codes, no traceback, and with --json one object on stdout."""
    assert done.code in (0, 1, 2, 3, 4, 5, 6, 7), args
    assert "Traceback" not in done.out + done.err, args
    assert "ledger is damaged" not in done.out + done.err, args
    assert "restore a backup" not in done.out + done.err, args


# --- looking creates nothing -----------------------------------------------------------------------------------


@pytest.mark.parametrize("as_json", [False, True], ids=["text", "json"])
@pytest.mark.parametrize(("name", "args"), list(commands.calls()), ids=_label)
def test_in_a_folder_that_is_no_project_nothing_is_well_and_nothing_appears(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, args: tuple[str, ...], as_json: bool
) -> None:
    """At 3 AM in the wrong folder: code 2, the path that was looked at and how to get to the right one; no file, no folder."""
    wrong = tmp_path / "wrong"
    wrong.mkdir()
    monkeypatch.chdir(wrong)
    there = {"LASTGOOD_PROJECT": str(wrong), "LASTGOOD_HOME": str(wrong / ".lastgood")}
    line = [*_args(name, args), *(["--json"] if as_json and name != "demo" else [])]
    done = run(*line, env=there)
    _sane(done, line)
    assert _files(wrong) == {} or name in commands.CREATES
    assert done.code != 0 or name == "doctor"
    if name not in ("doctor", "bundle import"):
        assert done.code == 2, (line, done)
        assert str(wrong) in done.out + done.err
    if as_json and name != "demo":
        assert json.loads(done.out)["exit_code" if name != "doctor" else "ok"] in (2, 1, False)


@pytest.mark.parametrize(("name", "args"), [(name, args) for name, args in commands.calls() if commands.SERVICE in args], ids=_label)
def test_a_service_that_is_not_there_is_no_success(
    run: Run, settings: Settings, released: list[str], name: str, args: tuple[str, ...]
) -> None:
    """Code 2, naming the services that there are; the home is as it was. With --json too."""
    before = _files(settings.home)
    for extra in ([], ["--json"]):
        if name == "demo" and extra:
            continue
        line = [*_args(name, args, service=ELSEWHERE), *extra]
        done = run(*line)
        _sane(done, line)
        assert done.code == 2, (line, done)
        assert ELSEWHERE in done.out + done.err
        assert name == "demo" or "toy" in (done.out + done.err).replace(str(settings.project), "")
    assert _files(settings.home) == before


@pytest.mark.parametrize("name", ["A", "", "-", "a/b", "../toy", "toy\n", "toy\0", "x" * 5000, "Toy", "\ud800"])
def test_a_name_that_no_service_can_have_is_refused_before_anything_is_opened(
    run: Run, settings: Settings, released: list[str], name: str
) -> None:
    """It becomes part of paths."""
    before = _files(settings.project)
    for command, args in commands.calls():
        if commands.SERVICE in args and command != "demo":
            line = [*_args(command, args, service=name)]
            done = run(*line)
            _sane(done, line)
            assert done.code == 2, (line, done)
    assert _files(settings.project) == before


@pytest.mark.parametrize("bundle", UNKNOWN_BUNDLES, ids=lambda text: ascii(text[:20]))
def test_a_bundle_that_is_not_there_is_no_success(run: Run, settings: Settings, released: list[str], bundle: str) -> None:
    """Neither an id, nor a prefix, nor an alias, nor a revision: code 2 from every command that takes one."""
    before = run("status", "toy", "--json").json["revision"]
    for name, args in commands.CALLS.items():
        if commands.BUNDLE in args:
            line = _args(name, args, bundle=bundle)
            done = run(*line)
            _sane(done, line)
            assert done.code == 2, (line, done)
    assert run("status", "toy", "--json").json["revision"] == before


def test_other_names_that_are_not_there(run: Run, settings: Settings, released: list[str]) -> None:
    """Revisions, rollouts, times before the first, replicas of indexes, files, actors' bundles to hold beside."""
    for line in (
        ["rollback", "toy", "--to-revision", "999", "--yes"],
        ["rollback", "toy", "--to-revision", "0", "--yes"],
        ["history", "toy", "--at", "2001-01-01"],
        ["report", "toy", "--rollout", "999"],
        ["report", "toy", "--rollout", "0"],
        ["diff", "toy", "999", "stable"],
        ["index", "retire", "nosuch"],
        ["bundle", "import", "nosuch.tar"],
        ["test-page", "toy", "--severity", "nosuch"],
        ["promote", "toy", "previous", "--yes", "--strategy", "nosuch"],
    ):
        done = run(*line)
        _sane(done, line)
        assert done.code not in (0, 7), (line, done)


# --- values ----------------------------------------------------------------------------------------------------


def _given(option: click.Option) -> tuple[str, ...]:
    """The values that are tried for *option*."""
    if isinstance(option.type, click.Choice):
        return ("", "nosuch")
    if isinstance(option.type, click.types.IntParamType | click.types.FloatParamType | click.IntRange | click.FloatRange):
        return NUMBERS
    return TIMES if option.name in IS_TIME else TEXTS


def _is_time(value: str) -> bool:
    try:
        look.parse_time(value)
    except errors.UsageError:
        return False
    return "\0" not in value


def _numeric() -> Iterator[tuple[str, click.Option]]:
    return ((name, one) for name, one in commands.options() if _given(one) is NUMBERS)


def test_every_number_has_a_range() -> None:
    """What the ledger or the clock cannot hold is refused by the command line, not by what lies behind it."""
    for name, one in _numeric():
        assert isinstance(one.type, click.IntRange | common.Number), f"{name} {one.opts[0]}: give it a type of lastgood.cli.common"
        assert one.type.max is not None, f"{name} {one.opts[0]} has no upper end"


@pytest.mark.parametrize(("name", "option"), list(commands.options()), ids=_label)
def test_no_value_of_an_option_is_worse_than_refused(
    run: Run,
    settings: Settings,
    released: list[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    name: str,
    option: click.Option,
) -> None:
    """Zero, negative, huge, not a number, empty, odd times, NUL, lines, very long: a documented code and a sentence, never a traceback."""
    if name in ("up", "down"):
        monkeypatch.setattr("lastgood.ops.local_stack.up", lambda *_, **__: [])
        monkeypatch.setattr("lastgood.ops.local_stack.open_pages", lambda *_, **__: {})
    if name == "test-page":
        monkeypatch.setattr("lastgood.release.convergence.controller_record", lambda _: None)
    monkeypatch.chdir(tmp_path)
    args = [
        arg for arg in _args(name, commands.CALLS[name], bundle="stable") if arg not in ("--reason", "x") or "--reason" not in option.opts
    ]
    for value in _given(option):
        line = [*args, f"{option.opts[0]}={value}"]
        done = run(*line)
        _sane(done, line)
        if _given(option) is NUMBERS and value in ("99999999999999999999", "1e400", "-1e400", "nan", "inf", "-1", "", " ", "x", "9" * 5000):
            assert done.code == 2, (line, done)
        if _given(option) is TIMES and not _is_time(value):
            assert done.code == 2, (line, done)
    assert run("audit", "verify", "toy").code == 0
