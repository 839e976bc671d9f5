"""Other windows of data than the ones in params.yaml, made by DVC in a workspace of their own.

The workspace is a DVC repository outside the clone: the clone's params.yaml and dvc.lock stay as committed. It holds
copies of exactly the files that dvc.yaml declares as dependencies, so an undeclared one is missed at once. Results are
copied out to a folder named by their content, so that a later run for other windows does not touch them.
"""

from __future__ import annotations

import dataclasses
import fcntl
import hashlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import yaml

from lastgood import errors
from lastgood.system import yaml_errors

STAGES = ("prepare", "split")
"""Those of dvc.yaml that make this service's data."""

OUTPUTS = ("train.parquet", "evaluate.parquet", "reference.json")

_CONFIG = """[core]
    analytics = false
    check_update = false
    no_scm = true
[cache]
    type = copy
"""


def version(project: Path) -> str:
    """A name of what params.yaml asks for: the published files, by their digests, what is made of them, and the months."""
    params = yaml_errors.load((project / "params.yaml").read_text("utf-8"), where="params.yaml")
    asked = json.dumps({stage: params[stage] for stage in STAGES}, sort_keys=True)
    return hashlib.sha256(asked.encode()).hexdigest()[:16]


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Built:
    """One version of the data. `md5` maps each output (and `prepared`, the folder of months) to DVC's name for it."""

    folder: Path
    md5: Mapping[str, str]

    @property
    def prepared(self) -> Path:
        """Folder of the twelve monthly files in the workspace, for replays; the same for every window."""
        return self.folder.parents[1] / "data" / "prepared"


def build(*, train: Sequence[int], evaluate: Sequence[int], workspace: Path, project: Path) -> Built:
    """The data for these months of 2013: a read-only folder with train.parquet, evaluate.parquet, reference.json.

    The same windows give the same folder, and cost little when they were built before. Concurrent calls wait for each
    other. Raises UsageError if DVC refuses (windows that overlap, for instance), Damaged if its files are not what
    its lock file says.
    """
    workspace.mkdir(parents=True, exist_ok=True)
    with _alone(workspace / "lock"):
        _lay_out(workspace, project, {"train": sorted(train), "evaluate": sorted(evaluate)})
        _reproduce(workspace)
        md5 = _recorded(workspace)
        return Built(folder=_copy_out(workspace, md5), md5=md5)


@contextmanager
def _alone(lock: Path) -> Iterator[None]:
    # DVC's own lock gives up after about four seconds; this one waits.
    with lock.open("w") as handle:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield


def _lay_out(workspace: Path, project: Path, windows: Mapping[str, Any]) -> None:
    pipeline = yaml.safe_load((project / "dvc.yaml").read_text("utf-8"))
    stages = {name: pipeline["stages"][name] for name in STAGES}
    code = {dep for stage in stages.values() for dep in stage["deps"] if not dep.startswith("data/")}
    params = yaml_errors.load((project / "params.yaml").read_text("utf-8"), where="params.yaml")
    files = {name: (project / name).read_text("utf-8") for name in sorted(code)}
    files["dvc.yaml"] = yaml.safe_dump({"stages": stages}, sort_keys=False)
    files["params.yaml"] = yaml.safe_dump({**params, "split": dict(windows)}, sort_keys=True)
    files[".dvc/config"] = _CONFIG
    for name, text in files.items():
        file = workspace / name
        file.parent.mkdir(parents=True, exist_ok=True)
        if not file.is_file() or file.read_text("utf-8") != text:
            file.write_text(text, "utf-8")


def _reproduce(workspace: Path) -> None:
    # The command line, not `dvc.repo.Repo`: only the former is a documented interface, and it keeps DVC's imports out of this process.
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")])
    env = {**os.environ, "PATH": path, "DVC_NO_ANALYTICS": "1", "PYTHONPATH": "", "PYTHONDONTWRITEBYTECODE": "1"}
    call = subprocess.run(
        [sys.executable, "-m", "dvc", "repro", "--quiet"], cwd=workspace, env=env, capture_output=True, text=True, check=False
    )
    if call.returncode != 0:
        said = (call.stdout + call.stderr).strip()[-2000:]
        raise errors.UsageError(f"dvc repro failed in {workspace}: {said}; correct the windows or the stage it names")


def _recorded(workspace: Path) -> dict[str, str]:
    stages = yaml.safe_load((workspace / "dvc.lock").read_text("utf-8"))["stages"]
    outs = [out for stage in stages.values() for out in stage["outs"]]
    return {Path(out["path"]).name: out["md5"] for out in outs}


def _copy_out(workspace: Path, md5: Mapping[str, str]) -> Path:
    _check(workspace / "data" / "split", md5, remove=workspace)
    key = hashlib.sha256("".join(md5[name] for name in OUTPUTS).encode()).hexdigest()[:16]
    target = workspace / "splits" / key
    if target.is_dir():
        _check(target, md5, remove=target)
        return target
    target.parent.mkdir(exist_ok=True)
    staged = Path(tempfile.mkdtemp(dir=target.parent, prefix=".staged-"))
    for name in OUTPUTS:
        shutil.copyfile(workspace / "data" / "split" / name, staged / name)
        (staged / name).chmod(0o444)
    staged.chmod(0o755)
    staged.rename(target)
    return target


def _check(folder: Path, md5: Mapping[str, str], *, remove: Path) -> None:
    # DVC restores outputs from its cache without looking at their content.
    for name in OUTPUTS:
        found = hashlib.md5((folder / name).read_bytes(), usedforsecurity=False).hexdigest()
        if found != md5[name]:
            raise errors.Damaged(f"{folder / name} has md5 {found}, dvc.lock says {md5[name]}; remove {remove} and build again")
