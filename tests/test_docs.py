"""What the pages say is true: commands run, links lead somewhere, named tests exist."""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from lastgood import errors
from lastgood.ledger import audit
from lastgood.testing import projects

ROOT = Path(__file__).resolve().parent.parent
PAGES = [ROOT / "README.md", ROOT / "CHANGELOG.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]


def section(title: str) -> str:
    """The text of README's section *title*."""
    text = (ROOT / "README.md").read_text("utf-8")
    return text.split(f"\n## {title}\n")[1].split("\n## ")[0]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_and_named_files_exist(page: Path) -> None:
    """Every relative link, and every test or source file that is named, is there."""
    text = page.read_text("utf-8")
    links = [link for link in re.findall(r"\]\(([^)#]+)", text) if "://" not in link]
    named = re.findall(r"`((?:tests|lastgood|services|assets|pipelines|sensors|bench)/[\w./]+)`", text)
    named = [name for name in named if "NAME" not in name]
    missing = [link for link in links if not (page.parent / link).exists()] + [name for name in named if not (ROOT / name).exists()]
    assert missing == []


def test_the_everyday_commands_run(tmp_path: Path) -> None:
    """Each line of the README's block does what it says, on a small project without layers."""
    settings = projects.project(tmp_path)
    with projects.opened(settings) as ctx:
        projects.released(ctx, 1, 2)
        new = projects.build(ctx, 3)
        audit.checkpoint(ctx.ledger, "toy", settings.keys)
    env = {**os.environ, "LASTGOOD_PROJECT": str(tmp_path)}
    block = re.search(r"```sh\n(.*?)```", section("Everyday commands"), re.DOTALL)
    assert block is not None
    lines = [line.split("#")[0].strip().replace("flights", "toy").replace("3f48", new[7:19]) for line in block[1].splitlines()]
    assert len(lines) >= 8
    try:
        for line in lines:
            argv = shlex.split(line)[1:]
            asked = ["--yes"] if argv[0] in ("promote", "rollback") else []
            done = subprocess.run(
                [sys.executable, "-m", "lastgood", *argv, *asked],
                capture_output=True, text=True, env=env, cwd=tmp_path, timeout=60, check=False,
            )  # fmt: skip
            assert done.returncode == 0, (line, done.stdout, done.stderr)
    finally:
        subprocess.run([sys.executable, "-m", "lastgood", "down", "--yes"], env=env, timeout=60, check=False, capture_output=True)


def test_the_exit_codes_are_the_ones_of_the_code() -> None:
    """README, `--help` and the error tree agree."""
    told = dict(
        re.findall(
            r"(\d+) (done|error|usage|conflict|not allowed|gate failed|partly converged|nothing to do)",
            section("Everyday commands").replace("\n", " "),
        )
    )
    wanted = {
        "0": "done",
        str(errors.LastgoodError.exit_code): "error",
        str(errors.UsageError.exit_code): "usage",
        str(errors.Conflict.exit_code): "conflict",
        str(errors.NotAllowed.exit_code): "not allowed",
        str(errors.GateFailed.exit_code): "gate failed",
        str(errors.PartlyConverged.exit_code): "partly converged",
        str(errors.NothingToDo.exit_code): "nothing to do",
    }
    assert told == wanted


def test_the_dagster_command_fits_the_job() -> None:
    """The job, the op and its configuration in the README are those of the code location."""
    from pipelines import definitions

    call = re.search(r"dagster job launch -w (\S+) -j (\w+) --config-json '([^']+)'", section("With Dagster"))
    assert call is not None
    assert (ROOT / call[1]).is_file()
    job = definitions.defs.resolve_job_def(call[2])
    (op,) = json.loads(call[3])["ops"]
    assert [node.name for node in job.nodes] == [op]
