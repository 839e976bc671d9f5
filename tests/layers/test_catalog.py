"""Adapters by name."""

import subprocess
import sys

import pytest

from lastgood import errors
from lastgood.layers import catalog


def test_known_names_give_their_build_function():
    """`processes` is the workers layer of this machine."""
    from lastgood.layers.infrastructure.local import layer as local_layer

    assert catalog.load("infrastructure", "processes") is local_layer.build


def test_a_dotted_path_gives_a_users_own_adapter(tmp_path, monkeypatch):
    """A user's module with `build` plays a layer."""
    (tmp_path / "ours").mkdir()
    (tmp_path / "ours" / "mesh.py").write_text("def build(settings, service, endpoints):\n    return 'mesh'\n")
    monkeypatch.syspath_prepend(tmp_path)
    assert catalog.load("traffic", "ours.mesh")(None, None, None) == "mesh"


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("nginx", r"no traffic layer 'nginx'; use envoy"),
        ("no.such.module", r"cannot be loaded: No module named 'no'"),
        ("lastgood.errors", r"has no function 'build'"),
    ],
)
def test_what_is_not_an_adapter_is_a_usage_error(name, says):
    """Unknown, missing and unfit modules are told with the remedy."""
    with pytest.raises(errors.UsageError, match=says):
        catalog.load("traffic", name)


def test_the_core_does_not_load_adapters():
    """Importing the catalog loads none of them, and loading the registry adapter does not load MLflow."""
    code = (
        "import sys\nfrom lastgood.layers import catalog\n"
        "assert not [m for m in sys.modules if m.startswith(('lastgood.layers.infrastructure', 'lastgood.layers.registry'))]\n"
        "catalog.load('registry', 'mlflow')\nassert 'mlflow' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
