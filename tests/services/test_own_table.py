"""docs/own-service.md as it stands: three files for a table that the project has never seen, built, released, asked, and watched."""

from __future__ import annotations

import http.client
import json
import os
import re
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from lastgood import testing
from tests import curl, project
from tests.services import samples

PAGE = samples.PROJECT / "docs" / "own-service.md"
NAME = "tumour"
pytestmark = pytest.mark.timeout(400)


def blocks() -> list[str]:
    """service.yaml, runtime.py and the asset file of the page."""
    return re.findall(r"```(?:yaml|python)\n(.*?)```", PAGE.read_text("utf-8"), re.DOTALL)


def test_three_files_are_a_service(tmp_path: Path) -> None:
    """With hours that last two seconds: usual rows pass, rows in another unit are broken data; the file has no more lines than fit on two pages."""
    manifest, runtime, asset, *_ = blocks()
    assert len((manifest + runtime + asset).splitlines()) < 160
    root = tmp_path / "project"
    project.copy(root)
    port = testing.free_port()
    for folder, name, text in (
        ("services", "service.yaml", manifest),
        ("services", "runtime.py", runtime),
        ("assets", "__init__.py", asset),
    ):
        (root / folder / NAME).mkdir(exist_ok=True)
        (root / folder / NAME / name).write_text(text, "utf-8")
    quick = (
        manifest.replace("port: 8390", f"port: {port}").replace("window_s: 3600", "window_s: 2").replace("# an hour", "settle_s: 1.5  #")
    )
    quick = quick.replace("  window_s: 2        settle_s: 1.5", "  window_s: 2\n  settle_s: 1.5").replace(
        "persistence: 3", "persistence: 2"
    )
    (root / "services" / NAME / "service.yaml").write_text(quick + "release: {strategy: [], bake_s: 2}\n", "utf-8")
    env = {**os.environ, "LASTGOOD_PROJECT": str(root), "DAGSTER_HOME": str(root)}

    def run(*argv: str) -> str:
        done = subprocess.run([sys.executable, *argv], env=env, cwd=root, capture_output=True, text=True, check=False, timeout=200)
        assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-3000:]
        return done.stdout

    (shell,) = re.findall(r"```sh\n(.*?)```", PAGE.read_text("utf-8"), re.DOTALL)
    path = os.pathsep.join([str(Path(sys.executable).parent), curl.folder(tmp_path / "bin"), os.environ.get("PATH", os.defpath)])
    try:
        done = subprocess.run(
            ["bash", "-c", "set -eux\n" + shell.replace("127.0.0.1:8390", f"127.0.0.1:{port}")],
            env={**env, "PATH": path}, cwd=root, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False, timeout=300,
        )  # fmt: skip
        assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-3000:]
        assert '"probability"' in done.stdout
        ask_for(port, seconds=10.0, times=1.0)
        ask_for(port, seconds=10.0, times=1000.0)
        told = json.loads(run("-m", "lastgood", "drift", NAME, "--json"))
    finally:
        run("-m", "lastgood", "down", NAME, "--yes")
    found = [(one["verdict"]["outcome"], one["verdict"]["why"]) for one in told["windows"]]
    assert "pass" in [outcome for outcome, _ in found], found
    assert any(outcome == "broken" and "mean_radius" in why for outcome, why in found), found


def ask_for(port: int, *, seconds: float, times: float) -> None:
    """Rows of the data set, some 40 a second, each followed by its label; *times* bends their unit."""
    from sklearn.datasets import load_breast_cancer

    frame = load_breast_cancer(as_frame=True).frame
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
    end, number = time.monotonic() + seconds, 0

    def post(path: str, body: dict[str, Any]) -> Any:
        connection.request("POST", path, body=json.dumps(body), headers={"content-type": "application/json"})
        response = connection.getresponse()
        answer = response.read()
        assert response.status < 300, answer
        return response, answer

    while time.monotonic() < end:
        row = frame.iloc[150 + (number * 7) % 419]
        asked = {"mean_radius": row["mean radius"] * times, "mean_texture": row["mean texture"], "mean_smoothness": row["mean smoothness"]}
        response, answer = post("/predict", {name: float(value) for name, value in asked.items()})
        assert 0 <= json.loads(answer)["predictions"][0]["probability"] <= 1
        post("/feedback", {"request_id": response.headers["x-lastgood-request-id"], "label": float(1 - row["target"])})
        number += 1
        time.sleep(0.02)
    connection.close()
