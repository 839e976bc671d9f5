"""Every page that the code can send has a test of its own: a new one without it fails here."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SENDERS = {"Paged": None, "page": None, "once": 0, "begun": 0, "_begun": 0}
"""Calls that send a page: where its key stands among the arguments without a name, if it does."""
STANDING = "tests/paging/test_standing.py"
PHASES = "tests/core/test_phases.py"

PROOFS = {
    "approval-{}": PHASES,
    "breaker": "tests/core/test_breaker.py",
    "bundle-{}": "tests/core/test_breaker.py",
    "clock-{}": f"{STANDING}::test_a_clock_that_was_set_is_told_once_and_when_it_is_right",
    "clocks-{}": f"{STANDING}::test_two_hosts_whose_clocks_disagree_are_told_once_for_both",
    "cold-{}": f"{STANDING}::test_previous_that_cannot_be_kept_warm_is_told_once_until_it_can",
    "drift-decision-{}-{}-{}": "tests/drift/test_decision.py",
    "drift-{}-{}-{}": "tests/drift/test_watch.py",
    "hold-{}": PHASES,
    "liveness-way-back-{}": "tests/model_retirement/test_check.py",
    "liveness-{}-{}": "tests/model_retirement/test_check.py",
    "log-{}-{}": "tests/sources/test_log_losses.py",
    "nobody-decides": f"{STANDING}::test_that_nobody_decides_is_told_once_for_as_long_as_it_lasts",
    "not-followed-{}": f"{STANDING}::test_a_step_back_that_traffic_could_not_follow_is_told_once",
    "rollout-{}": PHASES,
    "signal-{}": "tests/analysis/test_run.py::test_a_signal_that_holds_nothing_is_paged_once",
    "skip": PHASES,
    "stranded": "tests/analysis/test_run.py::test_a_service_that_a_person_holds_and_that_has_nothing_to_go_back_to_is_paged_once",
    "stranded-{}": f"{STANDING}::test_that_there_is_no_way_further_back_is_told_once",
    "test-{}": "tests/cli/test_page.py",
}
"""By key, with braces for what varies: the test of the page."""


class Source:
    """One file, and what its names stand for."""

    def __init__(self, path: Path) -> None:
        self.tree = ast.parse(path.read_text("utf-8"))
        self.where = str(path.relative_to(ROOT))
        self._functions = {node.name: node for node in ast.walk(self.tree) if isinstance(node, ast.FunctionDef)}
        self._constants: dict[str, ast.expr] = {}
        for node in self.tree.body:
            if isinstance(node, ast.Assign):
                self._constants |= dict(_pairs(node))

    def keys(self) -> Iterator[str]:
        """The keys of the pages that the file sends; a key that is only handed on is none."""
        for function in self._functions.values():
            given = {one.arg for one in (*function.args.args, *function.args.kwonlyargs)}
            local = {name: value for node in ast.walk(function) if isinstance(node, ast.Assign) for name, value in _pairs(node)}
            for node in ast.walk(function):
                for value in _key_of(node):
                    yield from self._texts(value, local, given)

    def _texts(self, value: ast.expr, local: dict[str, ast.expr], given: set[str]) -> Iterator[str]:
        match value:
            case ast.Constant(value=str(text)):
                yield text
            case ast.JoinedStr(values=parts):
                yield "".join(self._part(part) for part in parts)
            case ast.Name(id=name) if name in local:
                yield from self._texts(local[name], local, given)
            case ast.Name(id=name) if name in given:
                return
            case ast.Call(func=ast.Name(id=name)) if name in self._functions:
                for node in ast.walk(self._functions[name]):
                    if isinstance(node, ast.Return) and node.value is not None:
                        yield from self._texts(node.value, {}, set())
            case ast.IfExp(body=one, orelse=other):
                yield from self._texts(one, local, given)
                yield from self._texts(other, local, given)
            case ast.Attribute(attr="key") | ast.BinOp() | ast.Subscript():
                return  # of a page that is there already
            case _:
                raise AssertionError(f"{self.where}:{value.lineno}: say here how the key of this page is made")

    def _part(self, part: ast.expr) -> str:
        match part:
            case ast.Constant(value=text):
                return str(text)
            case ast.FormattedValue(value=ast.Name(id=name)) if isinstance(self._constants.get(name), ast.Constant):
                return str(self._constants[name].value)  # type: ignore[attr-defined]
            case _:
                return "{}"


def _pairs(node: ast.Assign) -> Iterator[tuple[str, ast.expr]]:
    """The names that an assignment gives, also several at once."""
    for target in node.targets:
        if isinstance(target, ast.Name):
            yield target.id, node.value
        elif isinstance(target, ast.Tuple) and isinstance(node.value, ast.Tuple):
            yield from ((one.id, value) for one, value in zip(target.elts, node.value.elts, strict=True) if isinstance(one, ast.Name))


def _key_of(node: ast.AST) -> Iterator[ast.expr]:
    """The key that a call sends a page under."""
    if not isinstance(node, ast.Call):
        return
    name = node.func.attr if isinstance(node.func, ast.Attribute) else node.func.id if isinstance(node.func, ast.Name) else ""
    if name not in SENDERS:
        return
    yield from (one.value for one in node.keywords if one.arg == "key")
    place = SENDERS[name]
    if place is not None and len(node.args) > place:
        yield node.args[place]


def found() -> set[str]:
    """The keys of all pages in the code."""
    files = [path for folder in ("lastgood", "dagster_lastgood", "assets", "pipelines") for path in (ROOT / folder).rglob("*.py")]
    files.remove(ROOT / "lastgood" / "paging" / "once.py")  # numbers the keys that it is given
    return {key for path in files for key in Source(path).keys()}  # noqa: SIM118  # not a dict


def test_every_page_has_an_entry() -> None:
    """A new page says here which test sends it."""
    assert found() - set(PROOFS) == set(), "name the test of this page"
    assert set(PROOFS) - found() == set(), "entries of pages that are gone"


@pytest.mark.parametrize("key", sorted(PROOFS))
def test_the_test_is_there_and_speaks_of_the_page(key: str) -> None:
    """The file names the kind of page, or the one test does."""
    file, _, name = PROOFS[key].partition("::")
    text = (ROOT / file).read_text("utf-8")
    if name:
        text = next(
            ast.get_source_segment(text, node) or ""
            for node in ast.walk(ast.parse(text))
            if isinstance(node, ast.FunctionDef) and node.name == name
        )
    assert key.partition("-")[0] in text
