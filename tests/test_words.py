"""Retired words and phrases stay out of help, docs, messages and public names; `docs/glossary.md` has the terms to use instead.

The lists are here and nowhere else. A name that still has a retired word stands in STANDING until it is renamed; a name, key or text that
others rely on stands in CONTRACT or STORED with its reason.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import click
import pytest

from lastgood import cli
from tests import tracked

ROOT = Path(__file__).parents[1]

PHRASES = {
    r"glances?": "status, observation",
    r"setbacks?": "rollback",
    r"chronicles?": "rollout record",
    r"episodes?": "rollout, run of failing windows",
    r"trails": "evidence (the audit trail is one)",
    r"telling": "page, notification",
    r"onsets?": "change point",
    r"desks?": "controller",
    r"scenes?": "analysis",
    r"ways? back": "rollback, rollback target",
    r"step(?:s|ped|ping)? back": "rollback, roll back",
    r"(?:go|goes|going|gone|went) back": "roll back, return",
    r"(?:(?<!there )is|(?<!there )are|(?<!there )was|(?<!there )were) no(?! (?:longer|more|worse|better|fewer|less|other)\b)": "is not a, invalid",
    r"what (?:comes|came) in": "live traffic",
    r"(?:held|hold|holds) [^.;:,]*\bbeside": "compare with",
    r"beside stable": "compared with stable",
    r"whoever only looks on|onlookers?": "read-only observers",
    r"let(?:s|ting)? go of": "close",
    r"for ever": "indefinitely, permanently",
    r"nobody knows": "is unknown",
    r"(?:can|cannot|could|could not) be told": "is inconclusive, cannot be determined",
    r"on (?:its|the|their) way": "in progress",
    r"pass(?:es|ed)? over": "skip",
    r"put(?:s)? (?:it|them|the (?:older )?file) back": "restore",
    r"made for": "built on, built for",
    r"for want of": "because there is no",
    r"all the same": "anyway",
}
"""Pattern (whole words, any case): what to write."""

NAMES = {
    "glance": "status, observation",
    "setback": "rollback",
    "chronicle": "rollout record",
    "episode": "rollout, run of failing windows",
    "trails": "evidence",
    "telling": "notification",
    "onset": "change point",
    "words": "wording, text",
    "desk": "controller",
    "scene": "analysis",
    "book": "ledger",
}
"""A word within a name of a module, class or function: what to call it."""

WHOLE = ("of", "told", "kept", "found", "asked", "seen")
"""Names of functions that say nothing on their own: a function is a verb and a noun."""

CONTRACT = {
    "lastgood.index.words": "code frozen in bundles imports it",
    "lastgood.conformance.bundle_words": "`lastgood.conformance.*` keeps its names",
    "lastgood.llm.extractive.by_words": "it ranks texts by the words of a question: the word means itself",
}
"""Names that have a retired word and keep it, with the reason."""

STANDING: set[str] = set()
"""Names that still have a retired word and are to be renamed. The list only shrinks."""

STORED = {
    "way back": "the role of a rollback target in `liveness --json`, and a metadata key of the Dagster job evaluate_rollback",
}
"""Texts that are stored, or that others select by, with the reason why they stay."""


def retired(text: str) -> list[str]:
    """Each retired phrase in *text*, with what to write."""
    return [f"{found[0]!r}: write {instead}" for pattern, instead in PHRASES.items() for found in _compiled(pattern).finditer(text)]


def _compiled(pattern: str) -> re.Pattern[str]:
    return re.compile(rf"(?<![\w-])(?:{pattern})(?![\w-])", re.IGNORECASE)


# --- help --------------------------------------------------------------------------------------------------


def commands() -> Iterator[tuple[str, click.Command]]:
    """Every command of the tree by its name."""

    def walk(command: click.Command, name: str) -> Iterator[tuple[str, click.Command]]:
        yield name, command
        if isinstance(command, click.Group):
            context = click.Context(command)
            for sub in command.list_commands(context):
                below = command.get_command(context, sub)
                assert below is not None
                yield from walk(below, f"{name} {sub}")

    return walk(cli.app, "lastgood")


@pytest.mark.parametrize(("name", "command"), list(commands()), ids=lambda value: value if isinstance(value, str) else "")
def test_help_has_no_retired_words(name: str, command: click.Command) -> None:
    """The whole help of each verb, as a user sees it in a wide terminal."""
    context = click.Context(command, info_name=name, max_content_width=10_000, terminal_width=10_000)
    assert retired(command.get_help(context)) == []


@pytest.mark.parametrize(("name", "command"), list(commands()), ids=lambda value: value if isinstance(value, str) else "")
def test_help_explains_every_option(name: str, command: click.Command) -> None:
    """Each verb has a description and each option a sentence."""
    assert (command.help or "").strip(), name
    options = [option for option in command.params if isinstance(option, click.Option)]
    assert [option.name for option in options if not (option.help or "").rstrip().endswith((".", ")"))] == []


# --- docs --------------------------------------------------------------------------------------------------

PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_pages_have_no_retired_words(page: Path) -> None:
    """README, the contributing page and everything below docs, by line."""
    lines = page.read_text("utf-8").splitlines()
    assert [f"{number}: {found}" for number, line in enumerate(lines, 1) for found in retired(line)] == []


# --- messages ----------------------------------------------------------------------------------------------

SOURCES = [path for folder in ("lastgood", "dagster_lastgood") for path in tracked.files(folder) if path.suffix == ".py"]


def texts(tree: ast.Module) -> Iterator[tuple[int, str]]:
    """Every string of the code by line: errors, logs, pages, plans, descriptions. Neither docstrings nor single words."""
    docs = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)}
    for node in ast.walk(tree):
        if isinstance(node, ast.JoinedStr):
            yield node.lineno, "".join(part.value if isinstance(part, ast.Constant) else "…" for part in node.values)
            docs |= {id(part) for part in node.values}
        elif isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in docs and " " in node.value.strip():
            yield node.lineno, node.value


@pytest.mark.parametrize("path", SOURCES, ids=str)
def test_messages_have_no_retired_words(path: Path) -> None:
    """What the code says to users, whichever way: no text has a retired phrase, except what is stored."""
    tree = ast.parse((ROOT / path).read_text("utf-8"))
    found = [f"{path}:{line}: {hit}" for line, text in texts(tree) if text not in STORED for hit in retired(text)]
    assert found == []


def test_the_report_has_no_retired_words() -> None:
    """The text of the HTML report, without its tags and expressions."""
    source = (ROOT / "lastgood" / "reports" / "report.html.j2").read_text("utf-8").split("<body>")[1]
    assert retired(re.sub(r"\{[{%].*?[%}]\}|<[^>]*>", " ", source)) == []


def test_what_is_stored_is_still_there() -> None:
    """A text that no code has any more leaves the list."""
    everything = {text for path in SOURCES for _, text in texts(ast.parse((ROOT / path).read_text("utf-8")))}
    assert set(STORED) <= everything


# --- names -------------------------------------------------------------------------------------------------


def names() -> Iterator[str]:
    """Dotted names of all public modules, and of their public classes and functions."""
    for path in SOURCES:
        parts = path.with_suffix("").parts
        module = ".".join(parts[:-1] if parts[-1] == "__init__" else parts)
        if any(part.startswith("_") for part in module.split(".")):
            continue
        yield module
        for node in ast.parse((ROOT / path).read_text("utf-8")).body:
            if isinstance(node, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef) and not node.name.startswith("_"):
                yield f"{module}.{node.name}"


def is_retired(name: str) -> bool:
    """Whether the last part of a dotted name has a retired word, or is a word that says nothing."""
    last = name.rpartition(".")[2]
    words = re.findall(r"[A-Z]?[a-z0-9]+|[A-Z]+(?![a-z])", last)
    return last in WHOLE or any(word.lower() in NAMES for word in words)


def test_no_new_name_has_a_retired_word() -> None:
    """Modules, classes and functions; what stands in a list is known."""
    assert sorted(name for name in names() if is_retired(name) and name not in CONTRACT and name not in STANDING) == []


def test_the_lists_of_names_only_shrink() -> None:
    """A name that was renamed leaves its list."""
    assert sorted((STANDING | set(CONTRACT)) - {name for name in names() if is_retired(name)}) == []


# --- the patterns themselves -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "text",
    [
        "a figure is no number",
        "the way back",
        "traffic could not follow the step back",
        "nothing to go back to",
        "whether what comes in has drifted",
        "hold another bundle beside stable",
        "kept for ever in the audit trail",
        "nobody knows how many",
        "it could not be told",
        "a release is on its way",
        "Episode 3",
    ],
)
def test_a_retired_phrase_is_found(text: str) -> None:
    """Each of these stood in a message once."""
    assert retired(text)


@pytest.mark.parametrize(
    "text",
    [
        "there is no ledger here",
        "the lease is no longer held",
        "a bundle that is no worse",
        "the audit trail of helpdesk",
        "rollback target",
        "the words of the golden questions",
    ],
)
def test_plain_english_passes(text: str) -> None:
    """What looks like a retired phrase and is idiomatic."""
    assert retired(text) == []
