"""The border of a worker: external input is checked here, before a team's model or code sees any of it.

A client's mistake is answered with a 4xx status that names row and field, and never counts as a failure of the bundle. Refused are
numbers that JSON cannot express (NaN, Infinity), that are not finite once parsed (1e999), or that no log can hold
(an integer beyond 64 bits); text that cannot be encoded again, duplicate names, and
endlessly nested lists; likewise numbers that arrive as text and are converted to numbers by a model.

What does not belong here: what a field means (the team's model), how a row is stored (`row_form`), how to handle a row
that the team's code cannot compute (`uncomputable`).
"""

from __future__ import annotations

import collections
import contextlib
import decimal
import functools
import json
import math
import re
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import pydantic

from lastgood.system.plain import writable

MAX_DEPTH = 64
"""Maximum nesting of objects and lists, including those of the body."""
MAX_DIGITS = 100
"""Maximum length of one number; a double needs 24 characters."""
MAX_EXPONENT = 400
"""Maximum decimal exponent of an exact number; a double ends at 308."""
INT64 = range(-(2**63), 2**63)
PROBLEMS = 20
"""Most problems named in one refusal."""

KINDS = ("json", "number", "text", "nesting", "duplicate", "field", "form", "unkept", "uncomputable", "rows", "size", "media")
"""Why a row or a request was refused, for the metrics."""

_JSON_TYPE = re.compile(r"application/(?:[a-z0-9!#$&^_.-]+\+)?json", re.IGNORECASE)
_CHARSET = re.compile(r""";\s*charset\s*=\s*"?([^";\s]+)""", re.IGNORECASE)
_LIKE_A_NUMBER = re.compile(r"\s*[-+]?\s*(?:s?nan|inf|[\d._])", re.IGNORECASE)
_ODD_NUMBER = re.compile(r"[\[:,\s]-?(?:[0-9]{19}|[0-9.]{90}|[0-9.]+[eE][-+]?[0-9]{3})")
"""Finds every number that may be out of range by its digits or exponent. Also finds some that fit, and text that looks similar."""
_KINDS = bytes(
    48 if byte in b"0123456789" else 101 if byte in b"eE" else 58 if byte in b":" else 32 if byte in b" \t\n\r" else 120
    for byte in range(256)
)
"""Maps each digit of a text to 0, an E to e, white space to a space and everything but a colon to x, so that suspicious
input can be searched for at the speed of a copy."""
_MAYBE_ODD = (b"0" * 19, b"0e000")
_SPACED = b" :"
_ODD_TEXT = re.compile(r"\\u(?:0000|[dD][89a-fA-F])")
_UTF8 = ("utf-8", "utf8", "us-ascii", "ascii")
_TAKEN = frozenset({"*/*", "application/*", "application/json"})
_REMEDY = 'send one row, or {"rows": [...]}'


class Refused(Exception):
    """The request cannot be answered as sent; *problems* name row and field where known. *kind* is one of KINDS, *rows* their count."""

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
    """Placeholder in a parsed value for something forbidden."""

    __slots__ = ("kind", "problem")

    def __init__(self, kind: str, problem: str) -> None:
        self.kind, self.problem = kind, problem


_NO_NUMBER = _Bad("number", "is not a finite number; omit it, or send null if the field may be null")
_TOO_LARGE = _Bad("number", "does not fit in 64 bits; send a smaller integer")
_TOO_LONG = _Bad("number", f"has more than {MAX_DIGITS} digits; send fewer")
_TWICE = _Bad("duplicate", "appears more than once; send each name once")
_NO_TEXT = _Bad("text", "contains a character that cannot be stored (NUL, or half of a surrogate pair); remove it")
_TOO_DEEP = _Bad("nesting", f"is nested more than {MAX_DEPTH} levels deep; send less nesting")


# --- the head of a request ---------------------------------------------------------------------------------


def check_head(headers: Mapping[str, str]) -> None:
    """Refuse what cannot be answered whatever the body is: 415 for a compressed one or another charset, 406 for an event stream."""
    coding = headers.get("content-encoding", "").strip().lower()
    if coding not in ("", "identity"):
        raise Refused(
            415, f"the body is encoded as {coding[:40]!r}, which is not accepted; send it uncompressed, without content-encoding",
            kind="media", headers={"accept-encoding": "identity"},
        )  # fmt: skip
    charset = _CHARSET.search(headers.get("content-type", ""))
    if charset and charset[1].lower() not in _UTF8:
        raise Refused(415, f"the body is in charset {charset[1][:40]!r}; send JSON as UTF-8", kind="media")
    if wanted := _only_a_stream(headers.get("accept", "")):
        raise Refused(406, f"the answer is one JSON object, not {wanted}; accept application/json, and read the whole answer", kind="media")


def _only_a_stream(accept: str) -> str:
    """text/event-stream if the sender accepts that and nothing that we offer; otherwise empty."""
    ranges = []
    for part in accept.lower().split(","):
        name, *parameters = (piece.strip() for piece in part.split(";"))
        if not any(re.fullmatch(r"q\s*=\s*0(?:\.0*)?", parameter) for parameter in parameters):
            ranges.append(name)
    return "text/event-stream" if "text/event-stream" in ranges and not _TAKEN.intersection(ranges) else ""


# --- the body ----------------------------------------------------------------------------------------------


def parse(body: bytes, *, content_type: str = "") -> dict[str, Any]:
    """The object in *body*: rows in a list under `rows`, or a single row. Raises Refused (422, or 415 for a body that is not JSON at all).

    Every number in it is finite and every integer fits into 64 bits, every text can be encoded as UTF-8, every name occurs
    once, and nothing is nested too deep.
    """
    _text, value, sound = _read(body, content_type)
    if not isinstance(value, dict):
        raise Refused(422, f"the body is not a JSON object; {_REMEDY}", kind="form")
    if not sound:
        _refuse(_problems(value))
    return value


class _Reader(threading.local):
    """Parses JSON, and replaces anything forbidden by a _Bad. One per thread: creating one costs more than parsing a row."""

    def __init__(self) -> None:
        self.decode = json.JSONDecoder(
            parse_int=self._integer, parse_float=self._real, parse_constant=lambda _: _NO_NUMBER, object_pairs_hook=self._named
        ).decode

    def _integer(self, text: str) -> int | _Bad:
        if len(text) > MAX_DIGITS:
            return _TOO_LONG
        value = int(text)
        return value if value in INT64 else _TOO_LARGE

    def _real(self, text: str) -> float | _Bad:
        if len(text) > MAX_DIGITS:
            return _TOO_LONG
        value = float(text)
        return value if math.isfinite(value) else _NO_NUMBER

    def _named(self, pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        made = dict(pairs)
        if len(made) != len(pairs):
            times = collections.Counter(name for name, _ in pairs)
            made.update((name, _TWICE) for name, count in times.items() if count > 1)
        return made


_reader = _Reader()
_NESTED = (dict, list)


class _NoNumber(Exception):
    """A literal that stands for a non-finite number."""


def _no_number_word(_: str) -> None:
    raise _NoNumber


_decode_plain = json.JSONDecoder(parse_constant=_no_number_word).decode


def _read(body: bytes, content_type: str) -> tuple[str, Any, bool]:
    """The text of *body*, its value, and whether it is known to contain nothing forbidden; if not, it may contain a _Bad.

    Most bodies can be recognized as harmless at a glance, and are then parsed three times faster.
    """
    if not body.strip():
        raise Refused(422, f"the body is empty; {_REMEDY}", kind="json")
    try:
        text = body.decode("utf-8")
        if not _is_odd(text, body):
            with contextlib.suppress(_NoNumber):
                value = _decode_plain(text)
                if _is_whole(value, text):
                    return text, value, True
        return text, _reader.decode(text), False
    except RecursionError as error:
        raise Refused(422, f"the body {_TOO_DEEP.problem}", kind="nesting") from error
    except ValueError as error:
        raise _no_json(body, content_type, error) from error


def _is_odd(text: str, body: bytes) -> bool:
    """Whether *text* has an out-of-range number, text that cannot be encoded, or a name separated from its colon. True may be wrong."""
    kinds = body.translate(_KINDS, b"+-")
    if any(odd in kinds for odd in _MAYBE_ODD) and _ODD_NUMBER.search(text):
        return True
    return _SPACED in kinds or _ODD_TEXT.search(text) is not None


def _is_whole(value: Any, text: str) -> bool:
    """Whether every name in *text* is in *value*, so that there were no duplicates, and nothing is nested too deep. False may be wrong.

    Where `_is_odd` found nothing, every name has its `":` and every object or list its bracket, so those counts are upper bounds.
    """
    left, names = text.count("{") + text.count("["), 0
    if left == 1 and type(value) is dict:  # one row of plain values
        return len(value) == text.count('":')
    objects, lists = [value] if type(value) is dict else [], [value] if type(value) is list else []
    for _ in range(MAX_DEPTH):
        names += sum(map(len, objects))
        left -= len(objects) + len(lists)
        if left == 0:  # the innermost level: its values need no check
            return names == text.count('":')
        inner = [one for node in objects for one in node.values() if type(one) in _NESTED]
        inner += [one for node in lists for one in node if type(one) in _NESTED]
        if not inner:
            return names == text.count('":')
        objects, lists = [one for one in inner if type(one) is dict], [one for one in inner if type(one) is list]
    return False


def _no_json(body: bytes, content_type: str, error: ValueError) -> Refused:
    kind = content_type.partition(";")[0].strip()
    if kind and not _JSON_TYPE.fullmatch(kind):
        return Refused(415, f"the body is {kind[:80]!r}, not JSON; send JSON, with content-type: application/json", kind="media")
    packed = ", it looks compressed: send it uncompressed" if body[:2] in (b"\x1f\x8b", b"\x28\xb5") else ""
    # The codec's own message repeats the byte, the parser's a position; neither repeats what was sent.
    why = "it is not UTF-8" if isinstance(error, UnicodeDecodeError) else str(error)
    return Refused(422, f"the body is not JSON: {why}{packed}; {_REMEDY}", kind="json")


def _problems(value: Any) -> Iterator[tuple[tuple[Any, ...], _Bad]]:
    """The places where *value* contains something forbidden."""
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


def _refuse(found: Iterator[tuple[tuple[Any, ...], _Bad]]) -> None:
    """Raise Refused if *found* is not empty; a few of the problems are named."""
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
    """A problem as a sentence."""
    where = [f"row {found['row']}" if found["row"] is not None else "", f"field {found['field']!r}" if found["field"] else ""]
    return f"{', '.join(part for part in where if part) or 'the body'}: {found['problem']}"


# --- numbers that came as text -----------------------------------------------------------------------------


def check_made(raw: Sequence[Any], rows: Sequence[Any]) -> None:
    """Refuse (422) numbers that a model converted from text (`"nan"`, `"1e999"`) and that would not be accepted as numbers."""
    _refuse(_made_of_all(raw, rows))


def _made_of_all(raw: Sequence[Any], rows: Sequence[Any]) -> Iterator[tuple[tuple[Any, ...], _Bad]]:
    for number, (one, made) in enumerate(zip(raw, rows, strict=True)):
        names = _at_risk(one, made)
        if names is None or names:  # empty for most rows
            yield from ((("rows", number, *path), bad) for path, bad in _made(one, made, names))


def _made(raw: Any, value: Any, names: Sequence[str] | None = None) -> Iterator[tuple[tuple[Any, ...], _Bad]]:
    """What is wrong in *value*, which was converted from *raw*; in a model only *names* are checked, if they are known."""
    # A model may itself convert a text to "not known"; only number-like text is checked. Exact numbers keep what a double rounds.
    if isinstance(raw, dict):
        for name, one, made in _pairs(raw, value, names):
            if _matters(type(one), type(made)):
                yield from (((name, *path), bad) for path, bad in _made(one, made))
        if isinstance(value, Mapping):
            yield from (((str(name),), bad) for name in value if not isinstance(name, str) and (bad := _no_number(name)) is not None)
    elif (isinstance(raw, str) and _LIKE_A_NUMBER.match(raw)) or (isinstance(value, decimal.Decimal) and isinstance(raw, int | float)):
        bad = _no_number(value)
        if bad is not None:
            yield (), bad
    elif isinstance(raw, list) and isinstance(value, Sequence) and len(raw) == len(value):
        if _may_matter(raw, value):
            for number, (one, made) in enumerate(zip(raw, value, strict=True)):
                yield from (((number, *path), bad) for path, bad in _made(one, made))
    elif isinstance(raw, list) and isinstance(value, set | frozenset) and any(isinstance(one, str) for one in raw):
        yield from (((), bad) for one in value if (bad := _no_number(one)) is not None)


def _can_be_wrong(raw: type, made: type) -> bool:
    """Whether anything can be wrong when a *made* was converted from a *raw*: a number from text, an exact number, or a nested value."""
    if issubclass(made, decimal.Decimal):
        return raw in (int, float, str)
    return raw is str if issubclass(made, int | float) else raw in _NESTED


_matters: Callable[[type, type], bool] = functools.lru_cache(maxsize=4096)(_can_be_wrong)


def _may_matter(raw: Sequence[Any], made: Sequence[Any]) -> bool:
    """Whether anything can be wrong for any pair of *raw* and *made* values."""
    kinds = set(map(type, raw))
    return any(_matters(one, other) for other in set(map(type, made)) for one in kinds)


def _at_risk(raw: Any, value: Any) -> tuple[str, ...] | None:
    """The names whose values need a check, for a row whose names all belong to its model, else None. Cached by the values' types."""
    if not isinstance(value, pydantic.BaseModel) or value.__pydantic_extra__ or type(raw) is not dict:
        return None
    if not _names(type(value)).keys() >= raw.keys():
        return None
    made = value.__dict__
    kinds = (type(value), tuple(raw), tuple(map(type, raw.values())), tuple(made), tuple(map(type, made.values())))
    names = _seen.get(kinds)
    if names is None:
        if len(_seen) >= _MOST_SEEN:
            _seen.clear()
        names = _seen[kinds] = tuple(name for name, one, other in _pairs(raw, value) if _matters(type(one), type(other)))
    return names


_seen: dict[tuple[Any, ...], tuple[str, ...]] = {}
"""The names that need a check, by the types of a row whose names all belong to its model."""
_MOST_SEEN = 1000


def _pairs(raw: Mapping[str, Any], value: Any, names: Iterable[str] | None = None) -> Iterable[tuple[str, Any, Any]]:
    """Each name of an object (or only *names*), its raw value, and the converted one."""
    if isinstance(value, pydantic.BaseModel):
        known = _names(type(value))
        return [(name, raw[name], getattr(value, known.get(name, name), None)) for name in (raw if names is None else names)]
    if isinstance(value, Mapping):
        # Keys may be converted too; their order stays.
        made = value.values() if len(value) == len(raw) else [value.get(name) for name in raw]
        return zip(raw, raw.values(), made, strict=True)
    return ()


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
    """The field for each JSON name."""
    found = {name: name for name in model.model_fields}
    for name, field in model.model_fields.items():
        choices: Sequence[Any] = (
            field.validation_alias.choices if isinstance(field.validation_alias, pydantic.AliasChoices) else [field.validation_alias]
        )
        found.update((choice, name) for choice in (field.alias, *choices) if isinstance(choice, str))
    return found
