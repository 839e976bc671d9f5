"""What the code frozen in a bundle may import of lastgood: an interface that only ever grows.

A bundle holds the code that serves it, and a rollback runs that code years later against the lastgood that is installed then.
So a name listed here keeps its module, its parameters and its meaning indefinitely; a module that moves leaves the old name
behind. What is not listed may change with every version, and registration warns of code that uses it.

What does not belong here: loading that code (`serving.runtime`).
"""

from __future__ import annotations

import ast
import re
import types
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

import lastgood

__all__ = ["API", "missing", "unlisted"]

_FIRST = "0.1.0"


def _since(version: str, *names: str) -> dict[str, str]:
    return dict.fromkeys(names, version)


API: Mapping[str, Mapping[str, str]] = {
    "lastgood.artifacts": _since(_FIRST, "digest_file", "digest_tree", "load_skops"),
    "lastgood.errors": _since(
        _FIRST, "LastgoodError", "UsageError", "NotFound", "NotAllowed", "Damaged", "Unavailable", "Conflict", "NothingToDo"
    ),
    "lastgood.index.base": _since(_FIRST, "Hit", "Reader", "Replica", "VectorIndex", "check_query"),
    "lastgood.index.catalog": _since(_FIRST, "check_embedder", "connect", "open_replica"),
    "lastgood.index.embedders": _since(_FIRST, "Description", "Embedder", "describe", "load"),
    "lastgood.index.fuse": _since(_FIRST, "DEPTH", "RRF_K", "by_score", "reciprocal_rank"),
    "lastgood.index.snapshot": _since(_FIRST, "Row", "Snapshot", "read", "read_rows", "read_vectors", "verify"),
    "lastgood.index.words": _since(_FIRST, "DEFAULT", "KEY", "LANGUAGES", "check_finds", "of_spec"),
    "lastgood.llm.base": _since(_FIRST, "Answer", "Message", "Model", "Params", "Passage", "Pin", "check_model", "parse"),
    "lastgood.llm.catalog": _since(_FIRST, "build", "hosted"),
    "lastgood.prompts": _since(_FIRST, "FILE", "Described", "Prompt", "describe", "load"),
    "lastgood.serving.runtime": _since(_FIRST, "Runtime", "in_shadow", "shadow"),
    "lastgood.settings": _since(_FIRST, "Settings", "load"),
}
"""Module: its names, each with the version of lastgood that brought it."""

_CANNOT_IMPORT = re.compile(r"cannot import name '([^']+)'")


def unlisted(files: Iterable[Path]) -> list[str]:
    """The names of lastgood that the Python *files* use and that `API` does not list, as dotted names, sorted.

    Read from the source: what a file imports only for the type checker does not count, what it looks up by a computed name
    is not found. A file that is not Python gives nothing; loading it says so.
    """
    return sorted({name for file in files for name in _used(file) if not _is_listed(name)})


def missing(error: BaseException) -> str:
    """If *error*, or what led to it, is a name of lastgood that is not there: which, since when it is there, and the remedy. Else "".

    For the code of a bundle that was frozen with another version.
    """
    seen: BaseException | None = error
    while seen is not None:
        name = _missing_name(seen)
        if name:
            return _sentence(name)
        seen = seen.__cause__ if seen.__cause__ is not None else seen.__context__
    return ""


def _sentence(name: str) -> str:
    module, _, attribute = name.rpartition(".")
    since = API.get(module, {}).get(attribute) or min(API.get(name, {}).values(), default="")
    if since:
        return f"{name} has been part of lastgood since {since}, but this is {lastgood.__version__}: install {since} or newer where the bundle runs"
    return (
        f"lastgood {lastgood.__version__} has no {name}, which was never part of the interface for frozen code (see lastgood.runtime_api): "
        "run the bundle with the version it was built with, or build the bundle again without that name"
    )


def _missing_name(error: BaseException) -> str:
    if isinstance(error, ModuleNotFoundError):
        return error.name or "" if _is_ours(error.name or "") else ""
    if isinstance(error, ImportError):
        found = _CANNOT_IMPORT.search(str(error))
        return f"{error.name}.{found[1]}" if found and _is_ours(error.name or "") else ""
    if isinstance(error, AttributeError) and isinstance(error.obj, types.ModuleType) and _is_ours(error.obj.__name__):
        return f"{error.obj.__name__}.{error.name}"
    return ""


def _is_ours(module: str) -> bool:
    return module == "lastgood" or module.startswith("lastgood.")


def _is_listed(name: str) -> bool:
    module, _, attribute = name.rpartition(".")
    return name in API or attribute in API.get(module, {})


# --- reading code ------------------------------------------------------------------------------------------


def _used(file: Path) -> Iterator[str]:
    """Dotted names of lastgood that *file* uses; of a module that is listed the attributes, of another the module itself."""
    try:
        tree = ast.parse(file.read_bytes())
    except (OSError, SyntaxError, ValueError, RecursionError):
        return
    modules: dict[str, str] = {}
    for node in _run(tree):
        for bound, name in _imported(node):
            if name in API:
                modules[bound] = name
            else:
                yield name
    for node in _run(tree):
        if isinstance(node, ast.Attribute):
            dotted = _dotted(node.value)
            if dotted in modules:
                yield f"{modules[dotted]}.{node.attr}"


def _imported(node: ast.AST) -> Iterator[tuple[str, str]]:
    """What an import of lastgood binds, and the dotted name of that."""
    if isinstance(node, ast.Import):
        for alias in node.names:
            if _is_ours(alias.name):
                yield alias.asname or alias.name, alias.name
    elif isinstance(node, ast.ImportFrom) and not node.level and node.module and _is_ours(node.module):
        for alias in node.names:
            yield alias.asname or alias.name, f"{node.module}.{alias.name}"


def _run(tree: ast.AST) -> Iterator[ast.AST]:
    """Every node that runs: not what stands under `if TYPE_CHECKING`."""
    waiting = [tree]
    while waiting:
        node = waiting.pop()
        yield node
        if isinstance(node, ast.If) and _dotted(node.test).rpartition(".")[2] == "TYPE_CHECKING":
            waiting.extend(node.orelse)
        else:
            waiting.extend(ast.iter_child_nodes(node))


def _dotted(node: ast.AST) -> str:
    """`a.b.c` as text; "" for anything else."""
    if isinstance(node, ast.Name):
        return node.id
    if isinstance(node, ast.Attribute):
        before = _dotted(node.value)
        return f"{before}.{node.attr}" if before else ""
    return ""
