"""Every shell line of every page: run as it stands, here or by the test that its page is given to; what is not run says why.

A line that no test runs (it needs your channels, or an hour) still has to be one that the commands understand.
"""

from __future__ import annotations

import os
import pty
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import click
import pytest

from lastgood import cli
from lastgood.ledger import audit
from lastgood.testing import projects

ROOT = Path(__file__).resolve().parent.parent
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
OTHERS = {
    "docs/examples/1-first-release.md": "tests/integration/test_examples.py",
    "docs/examples/2-prompt.md": "tests/integration/test_examples.py",
    "docs/examples/3-corpus.md": "tests/integration/test_examples.py",
    "docs/examples/4-embedder.md": "tests/integration/test_examples.py",
    "docs/own-service.md": "tests/services/test_own_table.py",
}
"""Pages that another test runs whole, in their order."""

NOT_RUN = {
    "./demo": "takes minutes: tests/test_demo.py runs what it runs",
    "./test": "runs this test",
    ". .venv/bin/activate": "a prepared environment has it on PATH",
    "dagster job launch": "tests/pipelines/test_command_line.py launches it with this configuration",
    "lastgood drift ": "needs a service that is watched and a day of rows: tests/cli/test_drift.py",
    "lastgood test-page": "needs your channels: tests/cli/test_page.py",
    "lastgood report": "tests/cli/test_watch.py; here nothing was measured",
    "sudo -u lastgood": "needs an account of that name: docs/security.md",
    "curl ": "needs the stack: tests/serving and tests/layers/traffic ask these",
}
"""Beginnings of lines that are only parsed here, and why."""

PUT = {"flights": "toy", "SERVICE": "toy"}


def lines(page: Path) -> Iterator[str]:
    """The commands of the page's shell blocks, continued lines joined, comments dropped."""
    for block in re.findall(r"```(?:sh|bash|console|shell)\n(.*?)```", page.read_text("utf-8"), re.DOTALL):
        for line in block.replace("\\\n", " ").splitlines():
            told = re.sub(r"\s+#\s.*$", "", line).strip()
            if told and not told.startswith("#"):
                yield told


ALL = [(str(page.relative_to(ROOT)), line) for page in PAGES for line in lines(page)]


def _commands(line: str) -> list[list[str]]:
    """The words of each simple command in *line*."""
    found: list[list[str]] = [[]]
    for word in shlex.split(line):
        if word in ("&&", "|", "||", ";"):
            found.append([])
        else:
            found[-1].append(word)
    return [words for words in found if words]


def _parse(group: click.Command, words: list[str], *, name: str) -> None:
    """Let click read *words*; raises what it would tell the user."""
    command, rest = group, words
    while isinstance(command, click.Group):
        ctx = click.Context(command, info_name=name)
        name, found, rest = command.resolve_command(ctx, rest)
        assert found is not None
        command = found
    command.make_context(name or "", list(rest))


@pytest.mark.parametrize(("page", "line"), [one for one in ALL if one[0] not in OTHERS], ids=lambda value: value[:60])
def test_every_line_is_one_that_the_commands_understand(page: str, line: str) -> None:
    """The verb and its flags exist, for lastgood and for dagster; files that are run are there."""
    for words in _commands(re.sub(r"\$\([^()]*\)", "x", line.replace("flights", "toy").replace("SERVICE", "toy"))):
        if words[0] == "lastgood":
            _parse(cli.app, words[1:], name="lastgood")
        elif words[0] == "dagster":
            from dagster._cli import create_dagster_cli

            _parse(create_dagster_cli(), words[1:], name="dagster")
        elif words[0].startswith("./"):
            assert (ROOT / words[0]).is_file()


def test_every_exception_is_used_and_every_other_test_is_there() -> None:
    """What is not in the pages any more has no exception; what runs a page exists."""
    for start in NOT_RUN:
        assert any(line.startswith(start) for _, line in ALL), start
    for page, test in OTHERS.items():
        assert (ROOT / page).is_file()
        assert (ROOT / test).is_file()


def test_the_lines_of_the_other_pages_end_well(tmp_path: Path) -> None:
    """In page order, on a small project with a controller, on a terminal where somebody says yes."""
    settings = projects.project(tmp_path)
    with projects.opened(settings) as ctx:
        bundles = projects.released(ctx, 1, 2, 3, 4, 5, 6)
        new = projects.build(ctx, 7)
        audit.checkpoint(ctx.ledger, "toy", settings.keys)
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", os.defpath)])
    env = {**os.environ, "PATH": path, "LASTGOOD_PROJECT": str(tmp_path)}
    put = {**PUT, "3f48": new[7:19], "BUNDLE": bundles[-1][7:19]}
    ran = 0
    try:
        for page, line in ALL:
            if page in OTHERS or line.startswith(tuple(NOT_RUN)):
                continue
            told = line
            for word, value in put.items():
                told = re.sub(rf"\b{word}\b", value, told)
            code, said = _on_a_terminal(told, env=env, cwd=tmp_path)
            # Moments after another one, or with nothing to call off; a release that a person stopped.
            expected = {"rollback": (0, 7), "watch": (0, 3)}.get(told.split()[1], (0,))
            assert code in expected, (page, told, said)
            ran += 1
        assert ran >= 12
    finally:
        subprocess.run(["bash", "-c", "lastgood down --yes"], env=env, cwd=tmp_path, timeout=60, check=False, capture_output=True)


def _on_a_terminal(line: str, *, env: dict[str, str], cwd: Path) -> tuple[int, str]:
    ours, theirs = pty.openpty()
    try:
        os.write(ours, b"y\n")
        done = subprocess.run(
            ["bash", "-c", f"set -e\n{line}"], stdin=theirs, env=env, cwd=cwd, capture_output=True, text=True, timeout=100, check=False
        )
    finally:
        os.close(ours)
        os.close(theirs)
    return done.returncode, done.stdout + done.stderr
