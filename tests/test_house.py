"""The plan of the house: floors of imports, no circles, how functions are cut, the rooms that a verb goes through, one place that puts it together.

A room is a folder or file directly in the repository or in `lastgood/`; a floor is a step in the longest chain of imports between rooms.
"""

from __future__ import annotations

import ast
import functools
import graphlib
import itertools
import statistics
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import FrameType
from typing import Any

import pytest

from lastgood.settings import Settings
from lastgood.testing import projects
from tests import memory, tracked
from tests.cli.conftest import Run, run, settings

__all__ = ["run", "settings"]

ROOT = Path(__file__).parents[1]
APPLICATION = ("lastgood", "dagster_lastgood", "assets", "sensors", "pipelines", "services", "demos", "bench")
MODULES_IN_ROOT = 9
EXAMPLE = ("assets", "sensors", "pipelines")
LINES_OF_THE_EXAMPLE = 600
ENTRY = "__main__"
VERBS = {"approve", "condemn", "hold", "lift", "propose", "release_hold", "roll_back"}
"""The functions of `lastgood.release` that change what serves."""
MEASURED = ("bench.",)
"""Benchmarks play the parts of people and controllers, without the layers."""


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


@functools.cache
def calls() -> tuple[tuple[str, str], ...]:
    """Who calls what in the code that is shipped, as (module.function, called)."""
    return tuple(
        (f"{name}.{function.name}", ast.unparse(node.func))
        for name, file in modules().items()
        if not name.startswith(MEASURED)
        for function in ast.walk(ast.parse(file.read_bytes()))
        if isinstance(function, ast.FunctionDef | ast.AsyncFunctionDef)
        for node in ast.walk(function)
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name | ast.Attribute)
    )


def callers(*wanted: str) -> set[str]:
    """The functions that call something whose last names are one of *wanted*."""
    ends = tuple(f".{one}" for one in wanted)
    return {caller for caller, called in calls() if f".{called}".endswith(ends)}


@pytest.mark.parametrize(
    ("steps", "by"),
    [
        (("_layers_of", "_make_layers_follow", "_until_cut_over", "_write_receipt"), "lastgood.release.convergence.carry_out"),
        (("ledger.append",), "lastgood.release.transaction.commit"),
    ],
    ids=["from the guard to the receipts", "into the ledger"],
)
def test_every_verb_is_put_together_in_one_place(steps: tuple[str, ...], by: str) -> None:
    """Each step is taken there, and nowhere else: a command, a job and a drift decision cannot differ in what they check."""
    assert {step: callers(step) for step in steps} == {step: {by} for step in steps}


def test_nobody_outside_calls_a_verb_past_the_composition() -> None:
    """A verb is handed to `carry_out`, which calls it; only within `release`, and by the project for tests, is one called by its name."""
    bypassing = {
        one
        for one in callers(*(f"release.{verb}" for verb in VERBS), "release.commit")
        if not one.startswith(("lastgood.release.", "lastgood.testing."))
    }
    taken = {
        name
        for name, file in modules().items()
        if not name.startswith(("lastgood.release", *MEASURED))
        for node in ast.walk(ast.parse(file.read_bytes()))
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("lastgood.release")
        if VERBS & {alias.name for alias in node.names}
    }
    assert (bypassing, taken) == (set(), set())


def test_a_promotion_goes_through_few_rooms_to_the_ledger(run: Run, settings: Settings) -> None:
    """Whatever the command reads or writes there, with layers that follow: the rooms on the stack, each counted where it is entered."""
    (settings.project / "lastgood.toml").write_text(memory.ADAPTERS)
    with projects.opened(settings) as ctx:
        projects.released(ctx, 1)
        wanted = projects.build(ctx, 2)
    ways: dict[str, set[tuple[str, ...]]] = {}

    def note(frame: FrameType, event: str, _: Any) -> None:
        if event == "call" and _room_of(frame) == "lastgood.ledger":
            ways.setdefault(frame.f_code.co_name, set()).add(_rooms(frame))

    sys.setprofile(note)
    try:
        done = run("promote", "toy", wanted, "--yes")
    finally:
        sys.setprofile(None)
    assert done.code in (0, 6), done.err
    assert ways["append"] == {("lastgood.cli", "lastgood.release", "lastgood.ledger")}
    longest = max(itertools.chain.from_iterable(ways.values()), key=len)
    assert len(longest) <= 5, longest


def _room_of(frame: FrameType) -> str | None:
    """The room whose code runs in *frame*; None for code that is not lastgood's."""
    try:
        within = Path(frame.f_code.co_filename).relative_to(ROOT)
    except ValueError:
        return None
    return room(".".join(within.with_suffix("").parts)) if within.parts[0] == "lastgood" else None


def _rooms(frame: FrameType | None) -> tuple[str, ...]:
    """The rooms that the stack of *frame* goes through, outermost first."""
    found: list[str] = []
    while frame is not None:
        here = _room_of(frame)
        if here is not None and found[-1:] != [here]:
            found.append(here)
        frame = frame.f_back
    return tuple(reversed(found))
