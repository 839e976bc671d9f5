"""What frozen code may import is there, takes what it took, and is all that frozen code of ours uses.

`tests/data/runtime_api.json` records what each name took when it was listed. It only ever grows: a new name is added by hand.
"""

from __future__ import annotations

import ast
import importlib
import inspect
import json
import re
import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import lastgood
from lastgood import errors, release, runtime_api
from lastgood.bundle import manifest
from lastgood.service import schema
from lastgood.serving import runtime, worker
from lastgood.testing import projects

ROOT = Path(__file__).parents[1]
RECORD = Path(__file__).parent / "data" / "runtime_api.json"
NAMES = [(module, name) for module, names in runtime_api.API.items() for name in names]
DOCS = ("own-service.md", "rag.md")


def takes(module: str, name: str) -> dict[str, Any]:
    """What callers rely on: the parameters of a function, those of a class and of its public methods, its public attributes."""
    found = getattr(importlib.import_module(module), name)
    if not inspect.isclass(found):
        return {"call": parameters(found)} if callable(found) else {}
    public = [key for key in dir(found) if not key.startswith("_") and not hasattr(object, key)]
    methods = {key: parameters(getattr(found, key)) for key in public if callable(getattr(found, key)) and _is_own(found, key)}
    fields = {**getattr(found, "model_fields", {}), **getattr(found, "__dataclass_fields__", {})}
    attributes = sorted({*(key for key in public if key not in methods and _is_own(found, key)), *fields})
    return {"call": parameters(found), "methods": methods, "attributes": attributes}


def _is_own(cls: type, key: str) -> bool:
    """Not inherited from somebody else's class."""
    return any(key in vars(base) for base in cls.__mro__ if base.__module__.partition(".")[0] == "lastgood")


def parameters(call: Any) -> list[list[Any]]:
    """Name, kind and whether it may be left out, in order."""
    try:
        found = inspect.signature(call)
    except (TypeError, ValueError):
        return []
    return [[one.name, str(one.kind.description), one.default is not one.empty] for one in found.parameters.values()]


def broken(before: list[list[Any]], now: list[list[Any]]) -> Iterator[str]:
    """Why calls that *before* allowed fail by *now*."""
    kinds = {name: (kind, optional) for name, kind, optional in now}
    for name, kind, optional in before:
        if name not in kinds or kinds[name][0] not in (kind, "positional or keyword"):
            yield f"{name} is not taken as before"
        elif optional and not kinds[name][1]:
            yield f"{name} can no longer be left out"
    known = {name for name, _, _ in before}
    places = [[name for name, kind, _ in row if kind.startswith("positional")] for row in (before, now)]
    if places[1][: len(places[0])] != places[0]:
        yield f"the order was {places[0]} and is {places[1]}"
    yield from (
        f"{name} must now be given" for name, kind, optional in now if name not in known and not optional and "variadic" not in kind
    )


@pytest.mark.parametrize(("module", "name"), NAMES, ids=[f"{module}.{name}" for module, name in NAMES])
def test_a_listed_name_is_there_and_takes_what_it_took(module: str, name: str) -> None:
    """For ever."""
    recorded = json.loads(RECORD.read_text("utf-8"))
    now = takes(module, name)
    assert f"{module}.{name}" in recorded, f"a new name: add to {RECORD.name} what it takes: {json.dumps({f'{module}.{name}': now})}"
    before = recorded[f"{module}.{name}"]
    assert list(broken(before.get("call", []), now.get("call", []))) == []
    for method, parts in before.get("methods", {}).items():
        assert method in now["methods"], f"{name}.{method} is gone"
        assert list(broken(parts, now["methods"][method])) == [], f"{name}.{method}"
    assert set(before.get("attributes", [])) <= {*now.get("attributes", []), *now.get("methods", {})}


@pytest.mark.parametrize(("old", "new"), [("lastgood.artifacts", "lastgood.bundle.store"), ("lastgood.prompts", "lastgood.bundle.prompts")])
def test_an_old_name_has_all_that_its_module_made_public(old: str, new: str) -> None:
    """Bundles were frozen before anybody listed anything; a module that moved took no public name away from them."""
    found, moved = importlib.import_module(old), importlib.import_module(new)
    tree = ast.parse(Path(moved.__file__ or "").read_bytes())
    made = [node.name for node in tree.body if isinstance(node, ast.ClassDef | ast.FunctionDef)]
    made += [target.id for node in tree.body if isinstance(node, ast.Assign) for target in node.targets if isinstance(target, ast.Name)]
    public = getattr(moved, "__all__", [name for name in made if not name.startswith("_")])
    assert public
    assert [name for name in public if getattr(found, name, None) is not getattr(moved, name)] == []


def test_nothing_that_was_listed_is_gone() -> None:
    """Whatever was recorded once is listed still."""
    assert set(json.loads(RECORD.read_text("utf-8"))) <= {f"{module}.{name}" for module, name in NAMES}


@pytest.mark.parametrize(
    ("now", "match"),
    [
        ([], "not taken as before"),
        ([["a", "keyword-only", False], ["b", "keyword-only", True]], "not taken"),
        ([["a", "positional or keyword", False], ["b", "keyword-only", False]], "no longer be left out"),
        ([["a", "positional or keyword", False], ["b", "keyword-only", True], ["c", "keyword-only", False]], "c must now be given"),
        ([["c", "positional or keyword", True], ["a", "positional or keyword", False], ["b", "keyword-only", True]], "the order was"),
    ],
)
def test_a_broken_signature_is_seen(now: list[list[Any]], match: str) -> None:
    """The comparison itself can fail."""
    before = [["a", "positional or keyword", False], ["b", "keyword-only", True]]
    assert list(broken(before, [*before, ["c", "keyword-only", True]])) == []
    assert match in " ".join(broken(before, now))


@pytest.mark.parametrize("service", sorted(path.name for path in (ROOT / "services").iterdir() if (path / schema.FILE).is_file()))
def test_frozen_code_of_ours_uses_what_is_listed(service: str) -> None:
    """Every file that the service freezes."""
    folder = ROOT / "services" / service
    assert runtime_api.unlisted(folder / name for name in schema.load(folder).code) == []


@pytest.mark.parametrize("page", DOCS)
def test_runtimes_of_the_documentation_use_what_is_listed(page: str, tmp_path: Path) -> None:
    """Whoever copies them has no warning."""
    blocks = re.findall(r"```python\n(.*?)```", (ROOT / "docs" / page).read_text("utf-8"), re.DOTALL)
    runtimes = [block for block in blocks if "runtime.Runtime" in block]
    assert runtimes
    for number, block in enumerate(runtimes):
        (tmp_path / f"{number}.py").write_text(block, "utf-8")
    assert runtime_api.unlisted(tmp_path.glob("*.py")) == []


@pytest.mark.parametrize(
    ("code", "used"),
    [
        ("from lastgood import errors\nerrors.Damaged", []),
        ("from lastgood import errors as e\ne.GateFailed", ["lastgood.errors.GateFailed"]),
        ("from lastgood.index.fuse import by_score", []),
        ("from lastgood.index.fuse import _scaled", ["lastgood.index.fuse._scaled"]),
        ("from lastgood.index.fuse import *", ["lastgood.index.fuse.*"]),
        ("from lastgood import ledger\nledger.open", ["lastgood.ledger"]),
        ("import lastgood.ops.local_stack as s\ns.up()", ["lastgood.ops.local_stack"]),
        ("import lastgood.errors\nlastgood.errors.Damaged", []),
        ("import lastgood.errors\nlastgood.errors.Nosuch", ["lastgood.errors.Nosuch"]),
        ("import lastgood", ["lastgood"]),
        ("def late():\n    from lastgood import ledger\n", ["lastgood.ledger"]),
        ("from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from lastgood import ledger\n", []),
        (
            "import typing\nif typing.TYPE_CHECKING:\n    from lastgood import ledger\nelse:\n    from lastgood import audit",
            ["lastgood.audit"],
        ),
        ("from . import errors\nerrors.GateFailed", []),
        ("import lastgoodies\nfrom lastgood_extra import x", []),
        ("this is no Python", []),
    ],
)
def test_what_is_used_is_read_from_the_source(code: str, used: list[str], tmp_path: Path) -> None:
    """However it is imported."""
    (tmp_path / "code.py").write_text(code, "utf-8")
    assert runtime_api.unlisted([tmp_path / "code.py"]) == used


RUNTIME = """
import pydantic
from lastgood.serving import runtime
{imports}

class Row(pydantic.BaseModel):
    x: float

class Runtime(runtime.Runtime):
    Request = Row

    @classmethod
    def load(cls, parts, options):
        {load}
        return cls()

    def predict(self, rows):
        return [{{}} for _ in rows]

    def warm_up(self):
        return [{{"x": 1.0}}]
"""


@pytest.mark.parametrize(
    ("imports", "name"),
    [
        ("from lastgood.index.fuse import by_magic", "lastgood.index.fuse.by_magic"),
        ("from lastgood import nosuch", "lastgood.nosuch"),
        ("import lastgood.index.nosuch", "lastgood.index.nosuch"),
        ("from lastgood import errors\nerrors.Nosuch", "lastgood.errors.Nosuch"),
    ],
)
def test_code_that_needs_what_is_not_there_says_what(imports: str, name: str, tmp_path: Path) -> None:
    """The missing name, and what to do."""
    (tmp_path / "runtime.py").write_text(RUNTIME.format(imports=imports, load="pass"), "utf-8")
    with pytest.raises(errors.Damaged, match=rf"has no {re.escape(name)},.*build the bundle again without that name"):
        runtime.load_class(tmp_path, entry="runtime:Runtime", digest=manifest.sha256(imports.encode()))


def test_a_name_of_a_newer_version_says_since_when(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Code that was frozen with a newer lastgood than the one that runs it."""
    newer = {**runtime_api.API, "lastgood.index.fuse": {**runtime_api.API["lastgood.index.fuse"], "by_votes": "7.2.0"}}
    monkeypatch.setattr(runtime_api, "API", newer)
    (tmp_path / "runtime.py").write_text(RUNTIME.format(imports="from lastgood.index.fuse import by_votes", load="pass"), "utf-8")
    match = rf"by_votes has been part of lastgood since 7\.2\.0, but this is {re.escape(lastgood.__version__)}: install 7\.2\.0 or newer"
    with pytest.raises(errors.Damaged, match=match):
        runtime.load_class(tmp_path, entry="runtime:Runtime", digest="sha256:" + "e" * 64)


def test_other_errors_are_nobodys_missing_name() -> None:
    """A package that lacks, an attribute of the team's own object."""
    for error in (ModuleNotFoundError("x", name="torch"), AttributeError("x", name="y", obj=object()), ValueError("lastgood.errors")):
        assert runtime_api.missing(error) == ""


def test_a_worker_says_what_is_missing_while_it_loads(tmp_path: Path) -> None:
    """Registered untried, and started: the name, not a traceback."""
    project = projects.project(tmp_path)
    code = RUNTIME.format(imports="from lastgood import errors", load="errors.Nosuch")
    (project.services / "toy" / "runtime.py").write_text(code, "utf-8")
    with release.open_context(project) as ctx:
        digest = projects.build(ctx, 0.5)
    with pytest.raises(errors.Damaged, match=r"cannot run here: lastgood .* has no lastgood\.errors\.Nosuch"):
        worker.load(project, service="toy", bundle=digest, now=1.0)


def test_registration_warns_of_what_is_not_listed(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """It is taken, with the name in the log and in its provenance."""
    project = projects.project(tmp_path)
    file = project.services / "toy" / "runtime.py"
    file.write_text("from lastgood import bundle as _bundles\n" + textwrap.dedent(file.read_text("utf-8")), "utf-8")
    with release.open_context(project) as ctx:
        digest = projects.build(ctx, 0.5, untried=False)
        trial = ctx.ledger.bundle_row(digest).provenance["trial"]
    assert trial["outcome"] == "answered"
    assert "lastgood.bundle" in " ".join(trial["notes"])
    assert "uses lastgood.bundle, which may change" in caplog.text
