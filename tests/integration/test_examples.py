"""The examples of the documentation, run in their order as they stand there."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from bench import application
from tests import curl, project

EXAMPLES = sorted((application.ROOT / "docs" / "examples").glob("[0-9]*.md"))


@pytest.mark.timeout(900)
def test_the_examples_do_what_they_say(tmp_path: Path) -> None:
    """Every command ends well; those that look at something find it."""
    made = tmp_path / "project"
    port = project.copy(made)["helpdesk"]
    path = os.pathsep.join([str(Path(sys.executable).parent), curl.folder(tmp_path / "bin"), os.environ.get("PATH", os.defpath)])
    env = {**os.environ, "PATH": path, "LASTGOOD_PROJECT": str(made), "DAGSTER_HOME": str(made)}
    assert len(EXAMPLES) == 4
    try:
        for page in EXAMPLES:
            blocks = re.findall(r"```sh\n(.*?)```", page.read_text("utf-8"), re.DOTALL)
            script = "set -eux\n" + "".join(blocks).replace("127.0.0.1:8381", f"127.0.0.1:{port}")
            done = subprocess.run(["bash", "-c", script], capture_output=True, text=True, env=env, cwd=made, timeout=400, check=False)
            assert done.returncode == 0, (page.name, done.stdout[-2000:], done.stderr[-3000:])
    finally:
        subprocess.run([sys.executable, "-m", "lastgood", "down", "--yes"], env=env, cwd=made, timeout=60, check=False, capture_output=True)
