"""What `pip install lastgood` puts on a machine, and what it does not."""

from __future__ import annotations

import subprocess
import sys
import zipfile
from email.parser import HeaderParser
from pathlib import Path, PurePosixPath

import pytest

from tests import tracked

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> zipfile.ZipFile:
    """The wheel of this checkout, built without the network."""
    folder = tmp_path_factory.mktemp("dist")
    command = [sys.executable, "-m", "hatchling", "build", "--target", "wheel", "--directory", str(folder)]
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True, timeout=100)
    (built,) = folder.glob("*.whl")
    return zipfile.ZipFile(built)


def _metadata(wheel: zipfile.ZipFile) -> HeaderParser:
    (name,) = (name for name in wheel.namelist() if name.endswith(".dist-info/METADATA"))
    return HeaderParser().parsestr(wheel.read(name).decode())


def test_only_the_library_is_in_it(wheel: zipfile.ZipFile):
    """Nothing but lastgood/, dagster_lastgood/ and metadata: names like `assets` or `sensors` would overwrite other packages."""
    tops = {PurePosixPath(name).parts[0] for name in wheel.namelist()}
    assert {top for top in tops if not top.endswith(".dist-info")} == {"lastgood", "dagster_lastgood"}
    assert len(tops) == 3


def test_every_file_of_the_library_is_in_it(wheel: zipfile.ZipFile):
    """All modules, the type marker and the SQL migrations arrive; a file that git does not know does not."""
    ours = {name.as_posix() for name in (*tracked.files("lastgood"), *tracked.files("dagster_lastgood"))}
    assert ours <= set(wheel.namelist())
    assert "lastgood/py.typed" in ours
    assert [name for name in ours if name.endswith(".sql")]
    assert not [name for name in wheel.namelist() if name.endswith(".pyc")]


def test_the_base_install_stays_small(wheel: zipfile.ZipFile):
    """Without an extra only what the emergency path needs is required."""
    required = [value for value in _metadata(wheel).get_all("Requires-Dist") if "extra ==" not in value]
    assert {value.split(">")[0].split("=")[0] for value in required} == {"click", "cryptography", "pydantic", "pyyaml", "rfc8785", "rich"}


def test_it_brings_the_command_and_the_licence(wheel: zipfile.ZipFile):
    """The `lastgood` command, the licence text and the README are part of it."""
    text = {PurePosixPath(name).name: wheel.read(name).decode() for name in wheel.namelist() if ".dist-info/" in name}
    assert "lastgood = lastgood.cli:main" in text["entry_points.txt"]
    assert "Apache License" in text["LICENSE"]
    assert _metadata(wheel).get_payload().startswith("#")
