"""The plan of the house: how many floors of imports there are, that no rooms import each other in a circle, and how functions are cut.

A room is a folder or file directly in the repository or in `lastgood/`; a floor is a step in the longest chain of imports between rooms.
"""

from __future__ import annotations

import ast
import graphlib
import statistics
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

from tests import tracked

ROOT = Path(__file__).parents[1]
APPLICATION = ("lastgood", "dagster_lastgood", "assets", "sensors", "pipelines", "services", "demos", "bench")
MODULES_IN_ROOT = 9
EXAMPLE = ("assets", "sensors", "pipelines")
LINES_OF_THE_EXAMPLE = 600
ENTRY = "__main__"


def room(module: str) -> str:
    """The room of a dotted module: `lastgood.release`, `assets`, …"""
    parts = module.split(".")
    return ".".join(parts[:2]) if parts[0] == "lastgood" and len(parts) > 1 else parts[0]


def modules() -> dict[str, Path]:
    """Dotted names of the repository's modules, tests aside."""
    files = [name for folder in APPLICATION for name in tracked.files(folder) if name.suffix == ".py"]
    return {".".join(name.with_suffix("").parts).removesuffix(".__init__"): ROOT / name for name in files}


def imports(name: str, file: Path, known: Mapping[str, Path]) -> Iterator[str]:
    """The modules of ours that *file* imports, also within functions, but not for the type checker alone."""
    tree = ast.parse(file.read_bytes())
    typing = {
        id(inner)
        for node in ast.walk(tree)
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node.test)
        for inner in ast.walk(node)
    }
    for node in ast.walk(tree):
        if id(node) in typing:
            continue
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if alias.name in known)
        elif isinstance(node, ast.ImportFrom):
            package = name if file.name == "__init__.py" else name.rpartition(".")[0]
            base = ".".join(package.split(".")[: len(package.split(".")) - node.level + 1]) if node.level else ""
            whole = ".".join(filter(None, (base, node.module or "")))
            for alias in node.names:
                yield f"{whole}.{alias.name}" if f"{whole}.{alias.name}" in known else whole


def arrows(within: str) -> dict[str, set[str]]:
    """By room the rooms that it imports; *within* `lastgood`, or everywhere with ""."""
    known = modules()
    found: dict[str, set[str]] = {}
    for name, file in known.items():
        if not name.startswith(within) or name == "lastgood":
            continue
        mine = found.setdefault(room(name), set())
        mine |= {room(other) for other in imports(name, file, known) if other in known and other != "lastgood" and other.startswith(within)}
    return {here: there - {here} for here, there in found.items()}


def floors(graph: Mapping[str, set[str]]) -> int:
    """The longest chain. Raises CycleError, which names the rooms of a circle."""
    height: dict[str, int] = {}
    for here in graphlib.TopologicalSorter(graph).static_order():
        height[here] = 1 + max((height[there] for there in graph.get(here, ())), default=0)
    return max(height.values())


@pytest.mark.parametrize(("within", "most"), [("lastgood", 15), ("", 16)], ids=["lastgood", "repository"])
def test_floors_and_no_circle(within: str, most: int) -> None:
    """Whoever adds an import that goes upwards sees the circle here."""
    assert floors(arrows(within)) <= most


def test_few_modules_lie_in_the_root() -> None:
    """What belongs to a subject lies in its room."""
    assert len(list((ROOT / "lastgood").glob("*.py"))) <= MODULES_IN_ROOT


def test_this_projects_own_code_location_reads_as_an_example() -> None:
    """What every service wants is a factory of `dagster_lastgood`; here stands only what these two want."""
    files = [ROOT / name for folder in EXAMPLE for name in tracked.files(folder) if name.suffix == ".py"]
    assert sum(len(file.read_text("utf-8").splitlines()) for file in files) <= LINES_OF_THE_EXAMPLE


def test_functions_are_as_short_as_they_were() -> None:
    """Lines of a function, docstring and all: median, the ninetieth of a hundred, and the longest."""
    lengths = sorted(
        (node.end_lineno or 0) - node.lineno + 1
        for name, file in modules().items()
        if name.startswith("lastgood")
        for node in ast.walk(ast.parse(file.read_bytes()))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
    )
    assert statistics.median(lengths) <= 7
    assert lengths[len(lengths) * 9 // 10] <= 17
    assert lengths[-1] <= 52
