"""The prompt part of a bundle: templates with declared variables that can only produce text.

    prompt.yaml     {schema, variables: {NAME: text | list}, parts: {NAME: FILE}, options: {…}}
    FILE            one Jinja2 template for each part

User input and search results are values: they are inserted and never read as a template. A template sees its variables and a few
filters; it has no functions, no attributes of objects, no other file. That is checked when a prompt is loaded, so that a broken
one is refused at build time and not at use.

What does not belong here: which model gets it (`llm`), how MLflow shows it (`layers.prompts`).
"""

from __future__ import annotations

import dataclasses
import difflib
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import pydantic
import yaml

from lastgood import errors
from lastgood.bundle import formats
from lastgood.system import files, yaml_errors

if TYPE_CHECKING:
    import jinja2

SCHEMA = "lastgood.prompt/v1"
FILE = "prompt.yaml"
MAX_BYTES = 64 * 1024
"""Maximum length of a template."""
MAX_CHARS = 1_000_000
"""Maximum length of a rendered text; no model reads more."""
FILTERS = ("length", "lower", "quoted", "title", "trim", "truncate", "upper")
"""Filters whose time and memory are proportional to their input, or bounded."""
FENCE = "~~~~~~~~"

_NAME = r"^[a-z][a-z0-9_]{0,39}$"
Name = Annotated[str, pydantic.StringConstraints(pattern=_NAME)]
VariableKind = Literal["text", "list"]
Value = str | Sequence[Mapping[str, str]]


class Described(pydantic.BaseModel):
    """The content of prompt.yaml."""

    model_config = pydantic.ConfigDict(frozen=True, extra="forbid", strict=True, use_attribute_docstrings=True)

    schema_: Literal["lastgood.prompt/v1"] = pydantic.Field(alias="schema")
    variables: dict[Name, VariableKind] = {}
    """text: a string. list: mappings of strings, to be iterated with `for`."""
    parts: dict[Name, str] = pydantic.Field(min_length=1)
    """Name to file, in the same folder."""
    options: dict[Name, str | int | float | bool] = {}
    """Options for the service's own code."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Prompt:
    """A prompt, checked and ready. `texts` are the templates by the name of their part."""

    variables: Mapping[str, VariableKind]
    texts: Mapping[str, str]
    options: Mapping[str, str | int | float | bool]
    templates: Mapping[str, jinja2.Template]

    def render(self, part: str, **values: Value) -> str:
        """The text of *part* with *values* inserted, without a trailing line end.

        Values that the part does not use may be given or left out. Raises UsageError for an unknown part, a value that is
        missing or of the wrong kind, or a text longer than MAX_CHARS.
        """
        import jinja2

        if part not in self.templates:
            raise errors.UsageError(f"the prompt has no part {part!r}; it has {', '.join(sorted(self.templates))}")
        for name, value in values.items():
            _check_value(name, value, kind=self.variables.get(name))
        try:
            return _bounded(self.templates[part].generate(values), part=part).removesuffix("\n")
        except jinja2.TemplateError as error:
            raise errors.UsageError(f"part {part!r} of the prompt cannot be rendered: {error}; give every variable that it uses") from error


def _check_value(name: str, value: Any, *, kind: VariableKind | None) -> None:
    if kind is None:
        raise errors.UsageError(f"{name!r} is not a variable of the prompt; declare it in {FILE}")
    rows = kind == "list" and isinstance(value, list | tuple) and all(isinstance(row, Mapping) for row in value)
    if not (kind == "text" and type(value) is str) and not (rows and all(type(cell) is str for row in value for cell in row.values())):
        raise errors.UsageError(
            f"variable {name!r} must be {'a string' if kind == 'text' else 'a list of mappings of strings'}; convert it"
        )


def _bounded(pieces: Iterator[str], *, part: str) -> str:
    made, length = [], 0
    for piece in pieces:
        made.append(piece)
        length += len(piece)
        if length > MAX_CHARS:
            raise errors.UsageError(f"part {part!r} of the prompt renders to more than {MAX_CHARS:,} characters; insert less text")
    return "".join(made)


# --- loading -----------------------------------------------------------------------------------


def load(folder: Path) -> Prompt:
    """The prompt in *folder*. Raises NotFound, or UsageError naming file and line for anything wrong with it."""
    described = describe(folder)
    texts = {name: _read(folder, file) for name, file in described.parts.items()}
    return _compile(described, texts)


def describe(folder: Path) -> Described:
    """The content of prompt.yaml. Raises NotFound or UsageError."""
    text = _read(folder, FILE)
    try:
        found = Described.model_validate(yaml_errors.load(text, where=str(folder / FILE)))
    except pydantic.ValidationError as error:
        where = "; ".join(f"{'.'.join(map(str, one['loc']))}: {one['msg']}" for one in error.errors())
        raise errors.UsageError(f"{folder / FILE} is invalid: {where}; correct the named key") from error
    for name, file in found.parts.items():
        if "/" in file or file == FILE:
            raise errors.UsageError(f"part {name!r} names {file!r}; name a file in the same folder as {FILE}")
    return found


def _read(folder: Path, name: str) -> str:
    file = folder / formats.check_path(name)
    try:
        with formats.open_regular(file) as opened:
            data = opened.read(MAX_BYTES + 1)
        if len(data) > MAX_BYTES:
            raise errors.UsageError(f"{file} is longer than {MAX_BYTES:,} bytes; keep documents out of the prompt")
        return data.decode("utf-8-sig").replace("\r\n", "\n")
    except UnicodeDecodeError as error:
        raise errors.UsageError(f"{file} is not UTF-8 at byte {error.start}; save it as UTF-8") from error


def _compile(described: Described, texts: Mapping[str, str]) -> Prompt:
    import jinja2

    environment = _environment()
    templates = {}
    for name, text in texts.items():
        try:
            tree = environment.parse(text)
        except jinja2.TemplateSyntaxError as error:
            raise errors.UsageError(f"{described.parts[name]}, line {error.lineno}: {error.message}; correct the template") from error
        for line, problem in _problems(tree, described):
            raise errors.UsageError(f"{described.parts[name]}, line {line}: {problem}")
        templates[name] = environment.from_string(text)
    return Prompt(variables=described.variables, texts=texts, options=described.options, templates=templates)


_COMMENT = "'{# … #}' is a comment, which no model would see; remove it, or write {{ '{#' }} and {{ '#}' }} for the characters themselves"


def _losses(environment: jinja2.Environment, text: str) -> Iterator[tuple[int, str]]:
    """Where a template has text that is never output: (line, why). Syntax errors are left to the parser."""
    import jinja2

    try:
        for line, kind, _ in environment.lex(text):
            if kind == "comment_begin":
                yield line, _COMMENT
    except jinja2.TemplateSyntaxError:
        return


def _environment() -> jinja2.Environment:
    """Jinja2 with nothing in it but FILTERS: no globals, only the plain tests, and the sandbox underneath."""
    import jinja2
    import jinja2.sandbox

    made = jinja2.sandbox.ImmutableSandboxedEnvironment(
        undefined=jinja2.StrictUndefined, autoescape=False, trim_blocks=True, keep_trailing_newline=True
    )
    made.globals.clear()
    made.filters["quoted"] = quoted
    made.filters = {name: made.filters[name] for name in FILTERS}
    made.tests = {name: made.tests[name] for name in ("defined", "equalto", "in", "even", "odd")}
    return made


def quoted(text: str) -> str:
    """*text* between two lines that it cannot forge, for search results: to be quoted, never to be obeyed."""
    return f"{FENCE}\n{re.sub('~{3,}', '~', str(text))}\n{FENCE}"


def _problems(tree: Any, described: Described) -> Iterator[tuple[int, str]]:
    """What a template does that is not allowed: (line, why)."""
    import jinja2.meta
    from jinja2 import nodes

    allowed = (
        nodes.Template, nodes.Output, nodes.TemplateData, nodes.Name, nodes.For, nodes.If, nodes.Filter, nodes.Const, nodes.Getattr,
        nodes.Compare, nodes.Operand, nodes.And, nodes.Or, nodes.Not, nodes.Test, nodes.CondExpr, nodes.Concat, nodes.Keyword,
    )  # fmt: skip
    for node in _walk(tree):
        if not isinstance(node, allowed):
            yield (
                node.lineno or 1,
                f"{type(node).__name__} is not allowed in a prompt; use variables, if, for and the filters {', '.join(FILTERS)}",
            )
        if isinstance(node, nodes.For) and any(
            isinstance(below, nodes.For) for child in node.body for below in (child, *child.find_all(nodes.For))
        ):
            yield node.lineno, "nested loops are not allowed; build the list beforehand"
        if isinstance(node, nodes.Name) and node.name in ("self", "super", "caller", "varargs", "kwargs"):
            yield node.lineno, f"{node.name!r} is not allowed in a prompt; use variables"
        if isinstance(node, nodes.Filter) and node.name not in FILTERS:
            yield node.lineno, f"filter {node.name!r} is not allowed; use {', '.join(FILTERS)}"
        if isinstance(node, nodes.Getattr) and not (
            re.match(_NAME, node.attr) and isinstance(node.node, nodes.Name) and _of_loop(node.node.name, tree)
        ):
            yield node.lineno, f"'.{node.attr}' is not allowed; only the fields of a loop's row have names"
    for name in sorted(jinja2.meta.find_undeclared_variables(tree) - described.variables.keys()):
        yield 1, f"variable {name!r} is not declared; add it to 'variables' in {FILE}"


def _walk(node: Any) -> Iterator[Any]:
    yield node
    for child in node.iter_child_nodes():
        yield from _walk(child)


def _of_loop(name: str, tree: Any) -> bool:
    from jinja2 import nodes

    return name == "loop" or any(isinstance(one.target, nodes.Name) and one.target.name == name for one in tree.find_all(nodes.For))


# --- before it is released ---------------------------------------------------------------------


def check(folder: Path) -> list[str]:
    """Warnings about the prompt in *folder*, as text; empty if there are none.

    Each part is rendered once with sample values. Raises what `load` raises, UsageError for text that
    would never be output, and NotAllowed for a secret in a template.
    """
    from lastgood.bundle import secret_scan as secrets

    prompt = load(folder)
    for name, value in prompt.options.items():
        if isinstance(value, float) and not math.isfinite(value):
            raise errors.UsageError(f"option {name!r} of the prompt is {value}, which JSON cannot represent; use a finite number")
    for name, text in prompt.texts.items():
        for line, problem in _losses(_environment(), text):
            raise errors.UsageError(f"part {name!r} of the prompt, line {line}: {problem}")
        for found in secrets.find(text):
            raise errors.NotAllowed(
                f"part {name!r} of the prompt, line {found.line}: it contains a secret ({found.kind}); remove the secret and revoke it"
            )
    samples: dict[str, Value] = {name: "sample" if kind == "text" else [_Sample()] for name, kind in prompt.variables.items()}
    for name in prompt.texts:
        prompt.render(name, **samples)
    used = {name for name in prompt.variables for text in prompt.texts.values() if re.search(rf"\b{name}\b", text)}
    return [f"variable {name!r} is declared but not used; remove it from 'variables'" for name in sorted(prompt.variables.keys() - used)]


class _Sample(dict[str, str]):
    """A row that has every field."""

    def __missing__(self, key: str) -> str:
        return "sample"


def freeze(folder: Path, out: Path, *, replace: Mapping[str, str] | None = None) -> Path:
    """Write the prompt in *folder*, its texts replaced by those in *replace*, to the new or empty folder *out*; returns it.

    Equal prompts have equal bytes: keys sorted, comments of prompt.yaml dropped, line ends normalized. Raises like `check`,
    which the result has passed.
    """
    described = describe(folder)
    unknown = sorted((replace or {}).keys() - described.parts.keys())
    if unknown:
        raise errors.UsageError(f"the prompt has no part {unknown[0]!r}; it has {', '.join(sorted(described.parts))}")
    files.new_folder(out)
    for name, file in described.parts.items():
        text = (replace or {}).get(name)
        (out / file).write_text(_read(folder, file) if text is None else text.rstrip("\n") + "\n", "utf-8")
    plain = described.model_dump(mode="json", by_alias=True)
    (out / FILE).write_text(yaml.safe_dump(plain, sort_keys=True, allow_unicode=True), "utf-8")
    check(out)
    return out


def text_diff(before: Path, after: Path) -> list[tuple[str, list[str]]]:
    """(file, lines of a unified diff) for each file that differs between two prompt parts."""
    names = sorted({path.name for folder in (before, after) for path in folder.iterdir() if path.is_file()})
    found = []
    for name in names:
        old, new = (_lines(folder / name) for folder in (before, after))
        if old != new:
            found.append((name, list(difflib.unified_diff(old, new, "before", "after", lineterm="", n=1))[2:]))
    return found


def _lines(file: Path) -> list[str]:
    return file.read_text("utf-8", errors="replace").splitlines() if file.is_file() else []
