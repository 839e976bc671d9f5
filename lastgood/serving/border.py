"""The border of a worker: what a stranger sends is checked here, before a team's model or code sees any of it.

What a client did wrong is told with a status of 4xx that names row and field, and is never a failure of the bundle. So a
number that JSON has no word for (NaN, Infinity), that is none any more once it is read (1e999), or that no log can hold
(an integer beyond 64 bits) gets no further, nor text that cannot be written down again, a name that is there twice, or
lists within lists without end; and the same for numbers that come as text and are made into numbers by a model.

What does not belong here: what a field means (the team's model), how a row is kept (`row_form`), what to do about a row
that the team's code cannot compute (`uncomputable`).
"""

from __future__ import annotations

import collections
import decimal
import functools
import json
import math
import re
import threading
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import pydantic

MAX_DEPTH = 64
"""Objects and lists within each other, those of the body included."""
MAX_DIGITS = 100
"""Characters of one number; a double needs 24."""
MAX_EXPONENT = 400
"""Decimal exponent of an exact number; a double ends at 308."""
INT64 = range(-(2**63), 2**63)
PROBLEMS = 20
"""Problems that one refusal names."""

KINDS = ("json", "number", "text", "nesting", "duplicate", "field", "form", "unkept", "uncomputable", "rows", "size", "media")
"""Why a row or a request was refused, for the metrics."""

_JSON_TYPE = re.compile(r"application/(?:[a-z0-9!#$&^_.-]+\+)?json", re.IGNORECASE)
_CHARSET = re.compile(r""";\s*charset\s*=\s*"?([^";\s]+)""", re.IGNORECASE)
_LIKE_A_NUMBER = re.compile(r"\s*[-+]?\s*(?:s?nan|inf|[\d._])", re.IGNORECASE)
_ODD_TEXT = re.compile(r"\\u(?:0000|[dD][89a-fA-F])")
_UTF8 = ("utf-8", "utf8", "us-ascii", "ascii")
_TAKEN = frozenset({"*/*", "application/*", "application/json"})
_REMEDY = 'send one row, or {"rows": [...]}'


class Refused(Exception):
    """The request cannot be answered as it is; *problems* name row and field where known. *kind* is one of KINDS, *rows* how many it counts for."""

    def __init__(
        self,
        status: int,
        message: str,
        *,
        problems: Sequence[Mapping[str, Any]] = (),
        kind: str = "",
        rows: int = 1,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(message)
        self.status = status
        self.message = message
        self.problems = list(problems)
        self.kind = kind
        self.rows = rows
        self.headers = dict(headers or {})


class _Bad:
    """Stands in a parsed value for what must not be there."""

    __slots__ = ("kind", "problem")

    def __init__(self, kind: str, problem: str) -> None:
        self.kind, self.problem = kind, problem


_NO_NUMBER = _Bad("number", "is no finite number; leave it out, or send null where the field may be null")
_TOO_LARGE = _Bad("number", "is outside of 64 bits; send a smaller integer")
_TOO_LONG = _Bad("number", f"has more than {MAX_DIGITS} digits; send fewer")
_TWICE = _Bad("duplicate", "is there more than once; send each name once")
_NO_TEXT = _Bad("text", "holds a character that cannot be written down (NUL, or half of a surrogate pair); send it without")
_TOO_DEEP = _Bad("nesting", f"is nested more than {MAX_DEPTH} deep; send it flatter")


# --- the head of a request ---------------------------------------------------------------------------------


def check_head(headers: Mapping[str, str]) -> None:
    """Refuse what we cannot answer whatever the body is: 415 for a compressed one or another charset, 406 for an event stream."""
    coding = headers.get("content-encoding", "").strip().lower()
    if coding not in ("", "identity"):
        raise Refused(
            415, f"the body is encoded as {coding[:40]!r}, which is not taken here; send it as it is, without content-encoding",
            kind="media", headers={"accept-encoding": "identity"},
        )  # fmt: skip
    charset = _CHARSET.search(headers.get("content-type", ""))
    if charset and charset[1].lower() not in _UTF8:
        raise Refused(415, f"the body is in charset {charset[1][:40]!r}; JSON is UTF-8, send it so", kind="media")
    if wanted := _only_a_stream(headers.get("accept", "")):
        raise Refused(
            406, f"the answer is one JSON object and no {wanted}; accept application/json, and read the answer whole", kind="media"
        )


def _only_a_stream(accept: str) -> str:
    """text/event-stream if the sender takes that and nothing that we have; else nothing."""
    ranges = []
    for part in accept.lower().split(","):
        name, *parameters = (piece.strip() for piece in part.split(";"))
        if not any(re.fullmatch(r"q\s*=\s*0(?:\.0*)?", parameter) for parameter in parameters):
            ranges.append(name)
    return "text/event-stream" if "text/event-stream" in ranges and not _TAKEN.intersection(ranges) else ""


# --- the body ----------------------------------------------------------------------------------------------


def parse(body: bytes, *, content_type: str = "") -> dict[str, Any]:
    """The object that *body* holds: rows in a list under `rows`, or one row. Raises Refused (422, or 415 for what is no JSON at all).

    Every number in it is finite and fits into 64 bits (an integer), every text can be written in UTF-8, every name is there
    once, and nothing is nested too deep.
    """
    text, value, found = _read(body, content_type)
    if not isinstance(value, dict):
        raise Refused(422, f"the body is no JSON object; {_REMEDY}", kind="form")
    if found or text.count("{") + text.count("[") > MAX_DEPTH or _ODD_TEXT.search(text):
        _refuse(_problems(value))
    return value


class _Reader(threading.local):
    """Reads JSON, and puts a _Bad in place of what must not be there; `found` says how many. One for each thread: making one costs more than reading a row."""

    def __init__(self) -> None:
        self.found = 0
        self.decode = json.JSONDecoder(
            parse_int=self._integer, parse_float=self._real, parse_constant=lambda _: self._bad(_NO_NUMBER), object_pairs_hook=self._named
        ).decode

    def _bad(self, what: _Bad) -> _Bad:
        self.found += 1
        return what

    def _integer(self, text: str) -> int | _Bad:
        if len(text) > MAX_DIGITS:
            return self._bad(_TOO_LONG)
        value = int(text)
        return value if value in INT64 else self._bad(_TOO_LARGE)

    def _real(self, text: str) -> float | _Bad:
        if len(text) > MAX_DIGITS:
            return self._bad(_TOO_LONG)
        value = float(text)
        return value if math.isfinite(value) else self._bad(_NO_NUMBER)

    def _named(self, pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        made = dict(pairs)
        if len(made) != len(pairs):
            times = collections.Counter(name for name, _ in pairs)
            made.update((name, self._bad(_TWICE)) for name, count in times.items() if count > 1)
        return made


_reader = _Reader()


def _read(body: bytes, content_type: str) -> tuple[str, Any, bool]:
    """The text of *body*, its value, and whether there is a _Bad in it."""
    if not body.strip():
        raise Refused(422, f"the body is empty; {_REMEDY}", kind="json")
    try:
        text = body.decode("utf-8")
        _reader.found = 0
        return text, _reader.decode(text), _reader.found > 0
    except RecursionError as error:
        raise Refused(422, f"the body {_TOO_DEEP.problem}", kind="nesting") from error
    except ValueError as error:
        raise _no_json(body, content_type, error) from error


def _no_json(body: bytes, content_type: str, error: ValueError) -> Refused:
    kind = content_type.partition(";")[0].strip()
    if kind and not _JSON_TYPE.fullmatch(kind):
        return Refused(415, f"the body is {kind[:80]!r} and no JSON; send JSON, with content-type: application/json", kind="media")
    packed = ", it looks compressed: send it as it is" if body[:2] in (b"\x1f\x8b", b"\x28\xb5") else ""
    # The codec's own text repeats the byte, the parser's a place; neither repeats what was sent.
    why = "it is no UTF-8" if isinstance(error, UnicodeDecodeError) else str(error)
    return Refused(422, f"the body is not JSON: {why}{packed}; {_REMEDY}", kind="json")


def _problems(value: Any) -> Iterator[tuple[tuple[Any, ...], _Bad]]:
    """Where *value* holds what must not be there."""
    stack: list[tuple[tuple[Any, ...], Any]] = [((), value)]
    while stack:
        path, node = stack.pop()
        if isinstance(node, _Bad):
            yield path, node
        elif isinstance(node, str):
            if not writable(node):
                yield path, _NO_TEXT
        elif isinstance(node, dict | list):
            if len(path) >= MAX_DEPTH:
                yield path, _TOO_DEEP
                continue
            if isinstance(node, dict):
                yield from (((*path, name), _NO_TEXT) for name in node if not writable(name))
            inner = list(node.items() if isinstance(node, dict) else enumerate(node))
            stack.extend(((*path, name), one) for name, one in reversed(inner) if isinstance(one, dict | list | str | _Bad))


def writable(text: str) -> bool:
    """Whether *text* can be written as UTF-8, by a database and a C library too."""
    if "\x00" in text:
        return False
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        return False
    return True


def _refuse(found: Iterator[tuple[tuple[Any, ...], _Bad]]) -> None:
    """Raise Refused if there is anything in *found*; a few are named."""
    problems: list[dict[str, Any]] = []
    kind = ""
    for path, bad in found:
        kind = kind or bad.kind
        problems.append(problem(path if path[:1] == ("rows",) else ("rows", 0, *path), bad.problem))
        if len(problems) == PROBLEMS:
            break
    if problems:
        rows = len({one["row"] for one in problems})
        raise Refused(422, f"{sentence(problems[0])}", problems=problems, kind=kind, rows=rows)


def problem(where: Sequence[Any], text: str) -> dict[str, Any]:
    """Row, field and what is wrong there; without the value, which may be personal or huge."""
    row = where[1] if len(where) > 1 and where[0] == "rows" and isinstance(where[1], int) else None
    field = ".".join(str(step) for step in (where[2:] if row is not None else where)) or None
    return {"row": row, "field": field and field[:200], "problem": text}


def sentence(found: Mapping[str, Any]) -> str:
    """A problem in words."""
    where = [f"row {found['row']}" if found["row"] is not None else "", f"field {found['field']!r}" if found["field"] else ""]
    return f"{', '.join(part for part in where if part) or 'the body'}: {found['problem']}"


# --- numbers that came as text -----------------------------------------------------------------------------


def check_made(raw: Sequence[Any], rows: Sequence[Any]) -> None:
    """Refuse numbers that a model has made of text (`"nan"`, `"1e999"`) and that would not be taken as numbers. Raises Refused (422)."""
    _refuse((("rows", number, *path), bad) for number, pair in enumerate(zip(raw, rows, strict=True)) for path, bad in _made(*pair))


_MADE_OF = (str, dict, list)


def _made(raw: Any, value: Any) -> Iterator[tuple[tuple[Any, ...], _Bad]]:
    # A model may make "not known" of a text by itself; only what reads like a number is one. Exact numbers keep what a double rounds.
    if (isinstance(raw, str) and _LIKE_A_NUMBER.match(raw)) or (isinstance(value, decimal.Decimal) and isinstance(raw, int | float)):
        bad = _no_number(value)
        if bad is not None:
            yield (), bad
    elif isinstance(raw, dict):
        for name, one, made in _pairs(raw, value):
            if (type(one) in _MADE_OF and type(made) is not str) or type(made) is decimal.Decimal:  # most values are neither
                yield from (((name, *path), bad) for path, bad in _made(one, made))
        if isinstance(value, Mapping):
            yield from (((str(name),), bad) for name in value if not isinstance(name, str) and (bad := _no_number(name)) is not None)
    elif isinstance(raw, list) and isinstance(value, Sequence) and len(raw) == len(value):
        for number, (one, made) in enumerate(zip(raw, value, strict=True)):
            yield from (((number, *path), bad) for path, bad in _made(one, made))
    elif isinstance(raw, list) and isinstance(value, set | frozenset) and any(isinstance(one, str) for one in raw):
        yield from (((), bad) for one in value if (bad := _no_number(one)) is not None)


def _pairs(raw: Mapping[str, Any], value: Any) -> Iterator[tuple[str, Any, Any]]:
    """Each name of an object, what came under it, and what was made of that."""
    if isinstance(value, pydantic.BaseModel):
        known = _names(type(value))
        yield from ((name, one, getattr(value, known.get(name, name), None)) for name, one in raw.items())
    elif isinstance(value, Mapping):
        # Keys may be made into something else too; their order stays.
        made = list(value.values()) if len(value) == len(raw) else [value.get(name) for name in raw]
        yield from ((name, one, found) for (name, one), found in zip(raw.items(), made, strict=True))


def _no_number(value: Any) -> _Bad | None:
    if isinstance(value, float):
        return None if math.isfinite(value) else _NO_NUMBER
    if isinstance(value, int):
        return None if value in INT64 else _TOO_LARGE
    if isinstance(value, decimal.Decimal):
        if not value.is_finite():
            return _NO_NUMBER
        return _TOO_LONG if abs(value.adjusted()) > MAX_EXPONENT or len(value.as_tuple().digits) > MAX_DIGITS else None
    return None


@functools.lru_cache(maxsize=256)
def _names(model: type[pydantic.BaseModel]) -> dict[str, str]:
    """The field that each name of JSON is for."""
    found: dict[str, str] = {}
    for name, field in model.model_fields.items():
        choices: Sequence[Any] = (
            field.validation_alias.choices if isinstance(field.validation_alias, pydantic.AliasChoices) else [field.validation_alias]
        )
        found.update((choice, name) for choice in (field.alias, *choices) if isinstance(choice, str))
    return found
