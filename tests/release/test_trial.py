"""Nothing is accepted at registration that a reader would refuse later; what this machine cannot tell is said, and blocks nothing."""

from __future__ import annotations

import datetime
import decimal
import enum
import json
import textwrap
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import pydantic
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lastgood import errors, release
from lastgood.bundle import environment, manifest, prompts, store
from lastgood.conformance import bundle_words as trial_words
from lastgood.conformance import index as engines
from lastgood.drift import reference
from lastgood.index import snapshot, words
from lastgood.release import trial
from lastgood.service import schema
from lastgood.serving import inference_log
from lastgood.settings import Settings
from lastgood.testing import projects

MODEL = """
class Row(pydantic.BaseModel):
    model_config = pydantic.ConfigDict(extra="forbid", strict=True)
    x: float
    seats: int | None = None
"""


class Colour(enum.Enum):
    """Values that read like something else."""

    RED = "red"
    ONE = "1"
    YES = "true"


class Row(pydantic.BaseModel):
    """A field of every kind that a request may have."""

    model_config = pydantic.ConfigDict(extra="forbid", strict=True)
    count: int | None
    seats: int
    speed: float | None
    late: bool | None
    name: str | None
    colour: Colour
    level: Literal["1", "2"]
    id: uuid.UUID
    day: datetime.date
    when: datetime.datetime
    price: decimal.Decimal
    tags: list[str]
    place: dict[str, float]
    either: int | str


ROWS = st.builds(
    dict,
    count=st.none() | st.integers(-(2**50), 2**50),
    seats=st.integers(0, 400),
    speed=st.none() | st.floats(allow_nan=False, allow_infinity=False),
    late=st.none() | st.booleans(),
    name=st.none() | st.text(st.characters(codec="utf-8", exclude_characters="\0")),
    colour=st.sampled_from([one.value for one in Colour]),
    level=st.sampled_from(["1", "2"]),
    id=st.uuids().map(str),
    day=st.dates(),
    # The bounds are without a zone; the strategy adds it.
    when=st.datetimes(datetime.datetime(1900, 1, 1), datetime.datetime(2200, 1, 1), timezones=st.just(datetime.UTC)),  # noqa: DTZ001  # hypothesis adds the zone  # noqa: DTZ001
    price=st.decimals(-1000, 1000, places=2),
    tags=st.lists(st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=5), max_size=3),
    place=st.fixed_dictionaries({"lat": st.floats(-90, 90), "lon": st.floats(-90, 90)}),
    either=st.integers(0, 9),
)


@settings(max_examples=40, deadline=None)
@given(rows=st.lists(ROWS, min_size=1, max_size=12), gaps=st.booleans(), categories=st.booleans())
def test_a_reference_of_every_kind_is_read_as_it_was_written(
    tmp_path_factory: pytest.TempPathFactory, rows: list[dict[str, Any]], gaps: bool, categories: bool
) -> None:
    """Integers with gaps that pandas made floats, Enum, UUID, dates, exact numbers, lists, nested ones: all rows, with their values."""
    table = pa.Table.from_pylist([{"at": float(n), **row} for n, row in enumerate(rows)])
    if gaps:
        floats = np.array([np.nan if row["count"] is None else row["count"] for row in rows], dtype=np.float64)
        for name, values in (("count", floats), ("seats", np.array([float(row["seats"]) for row in rows]))):
            table = table.set_column(table.column_names.index(name), name, pa.array(values))
    if categories:
        for name in ("colour", "level", "id"):
            table = table.set_column(table.column_names.index(name), name, table[name].dictionary_encode())
    file = tmp_path_factory.mktemp("r") / reference.FILE
    reference.write(table, file, at="at")
    found = reference.read(file)
    asked = inference_log.requests(found.table, Row)
    assert [None if one is None else one.model_dump() for one in asked] == [
        Row.model_validate(row, strict=False).model_dump() for row in rows
    ]
    assert list(inference_log.refusals(found.table, Row)) == []
    assert found.sample.rows == len(rows)


def _project(root: Path, *, model: str = MODEL, body: str = "", load: str = "") -> Settings:
    """A project whose runtime has the request *model*; *body* is added to the module, *load* to its loading."""
    made = projects.project(root)
    code = projects.RUNTIME.replace("import pydantic\n", "import datetime, decimal, enum, uuid\nimport pydantic\n" + body)
    before, _, after = code.partition("class Row(")
    code = before + textwrap.dedent(model).strip() + "\n\n\nclass Runtime(" + after.partition("class Runtime(")[2]
    code = code.replace("        return cls(float", f"        {load}\n        return cls(float")
    folder = root / "services" / "toy"
    (folder / "runtime.py").write_text(code)
    file = folder / schema.FILE
    file.write_text(file.read_text().replace("parts: [model,", "parts: [model, data,"))
    return made


def _register(project: Settings, *, fill: Callable[[Path], None] = lambda _: None, untried: bool = False) -> dict[str, Any]:
    """Register a bundle whose data part *fill* writes, and give what its provenance says of the trial."""
    with release.open_context(project) as ctx:
        work = project.home / "work"
        (work / "data").mkdir(parents=True)
        (work / "data" / "note.json").write_text("{}")
        fill(work)
        (work / "model.json").write_text("0.5")
        frozen = schema.freeze(project.services / "toy", work / "config")
        stored = {
            "model": ctx.store.put(work / "model.json"),
            "data": ctx.store.put(work / "data"),
            "config": ctx.store.put(frozen),
            "environment": ctx.store.put_bytes(
                environment.encode(environment.describe(project.project / "requirements.lock")), name=environment.FILE
            ),
            **{name: ctx.store.put(work / name) for name in ("prompt", "index") if (work / name).exists()},
        }
        meta = {"embedder": engines.EMBEDDER} if "index" in stored else {}
        made = manifest.bundle_of("toy", *(store.part(one, name=name, media_type="x/y", meta=meta) for name, one in stored.items()))
        try:
            release.register(ctx, made, provenance={}, actor="test", now=5.0, untried=untried)
        except errors.NotAllowed:
            with pytest.raises(errors.NotFound):
                ctx.ledger.bundle(made.id)
            raise
        found: dict[str, Any] = dict(ctx.ledger.bundle_row(made.id).provenance["trial"])
        return found


def _reference(columns: dict[str, Any]) -> Callable[[Path], None]:
    count = len(next(iter(columns.values())))
    return lambda work: reference.write(
        pa.table({"at": [float(n) for n in range(count)], **columns}), work / "data" / reference.FILE, at="at"
    )


def test_a_bundle_that_answers_is_taken(tmp_path: Path) -> None:
    """With a reference whose integers have gaps."""
    fill = _reference({"x": [1.0, 2.0], "seats": pa.array(np.array([3.0, np.nan]))})
    assert _register(_project(tmp_path), fill=fill)["outcome"] == "answered"


@pytest.mark.parametrize(
    ("columns", "match"),
    [
        ({"x": [1.0, 2.0], "seats": [1.5, 2.0]}, r"1 of 2 rows .*row 0, column 'seats' \(double\).*whole numbers as integers"),
        ({"x": ["a", "b"]}, r"2 of 2 rows .*column 'x' \(string\)"),
        ({"x": pa.array([1.0, None])}, r"1 of 2 rows .*row 1, column 'x'"),
        ({"other": [1.0, 2.0]}, "none of the fields"),
        ({"seats": [1, 2]}, "column 'x'"),
    ],
)
def test_a_reference_that_would_be_left_out_is_refused(tmp_path: Path, columns: dict[str, Any], match: str) -> None:
    """Row and column are named, with the remedy, and nothing is registered."""
    with pytest.raises(errors.NotAllowed, match=match):
        _register(_project(tmp_path), fill=_reference(columns))


def test_a_reference_that_was_never_one_is_refused(tmp_path: Path) -> None:
    """Written by hand, without its time."""
    import pyarrow.parquet as pq

    with pytest.raises(errors.NotAllowed, match="holds no reference"):
        _register(_project(tmp_path), fill=lambda work: pq.write_table(pa.table({"x": [1.0]}), work / "data" / reference.FILE))


@pytest.mark.parametrize(
    ("load", "match"),
    [
        ("raise ValueError('bad weights')", "cannot be loaded.*bad weights"),
        ("cls.predict = lambda self, rows: [{'probability': float('nan')}]", "cannot answer its warm-up"),
        ("cls.predict = lambda self, rows: []", "cannot answer its warm-up.*number of answers"),
        ("cls.predict = lambda self, rows: [{'a': object()}]", "cannot answer its warm-up"),
        ("cls.warm_up = lambda self: [{'y': 1}]", "cannot answer its warm-up.*"),
        ("import lastgood.gone", "gone"),
    ],
)
def test_a_bundle_that_cannot_serve_is_refused(tmp_path: Path, load: str, match: str) -> None:
    """Before it is known, and with what its code said."""
    with pytest.raises(errors.NotAllowed, match=match):
        _register(_project(tmp_path, load=load))


@pytest.mark.parametrize(
    "load",
    [
        "import a_package_that_is_not_here",
        "raise MemoryError",
        "raise ConnectionRefusedError(111, 'no model server')",
        "import os; os._exit(9)",
    ],
)
def test_what_this_machine_cannot_tell_blocks_nothing(tmp_path: Path, load: str) -> None:
    """A package, memory or a server that is missing here: it is said, in the provenance."""
    found = _register(_project(tmp_path, load=load))
    assert found["outcome"] == "unknown"
    assert found["notes"]


def test_it_can_be_skipped_and_that_is_said(tmp_path: Path) -> None:
    """A bundle that cannot load is taken then, with a warning that stays."""
    found = _register(_project(tmp_path, load="raise ValueError('bad weights')"), untried=True)
    assert found == {"outcome": "skipped", "notes": [trial.SKIPPED]}


def _prompt(text: str) -> Callable[[Path], None]:
    def fill(work: Path) -> None:
        (work / "prompt").mkdir()
        (work / "prompt" / prompts.FILE).write_text("schema: lastgood.prompt/v1\nvariables: {question: text}\nparts: {user: user.txt}\n")
        (work / "prompt" / "user.txt").write_text(text)

    return fill


@pytest.mark.parametrize(
    ("text", "match"),
    [
        ("a\n{# careful #}\nb", "line 2: .*comment"),
        ("{{ question }}{#- x -#}", "line 1: .*comment"),
        ("{{ other }}", "not declared"),
        ("{{ question", "line 1"),
    ],
)
def test_a_prompt_that_loses_text_or_cannot_be_rendered_is_refused(tmp_path: Path, text: str, match: str) -> None:
    """At writing and at registering."""
    _prompt(text)(tmp_path)
    with pytest.raises(errors.LastgoodError, match=match):
        prompts.check(tmp_path / "prompt")
    with pytest.raises(errors.NotAllowed, match=match):
        _register(_project(tmp_path / "project"), fill=_prompt(text))


# --- whether words find anything --------------------------------------------------------------------------

OPENED = f"from lastgood.index import catalog; catalog.open_replica(parts['index'], embedder={engines.EMBEDDER!r}).close()"
TEXTS = ("东京的天气今天很好", "数据库迁移会改变表格的结构", "東京都の天気は晴れです", "データベースの移行は表を変えます")
ASKED = ("天气怎么样?", "如何迁移数据库?", "天気はどうですか", "データベースを移行する")


def _corpus(spec: dict[str, Any], *, asked: tuple[str, ...] = ASKED, kind: str = "golden") -> Callable[[Path], None]:
    """An index of Chinese and Japanese texts with *spec*, and questions about them in the data part."""

    def fill(work: Path) -> None:
        rows = [snapshot.Row(id=str(number), text=text) for number, text in enumerate(TEXTS)]
        snapshot.write(rows, engines.make_vectors(len(rows)), work / "index", embedder=engines.EMBEDDER, spec=spec)
        lines = [json.dumps({"question": one, "kind": kind, "answers": ["0"]}) for one in asked]
        (work / "data" / trial_words.QUESTIONS).write_text("\n".join(lines) + "\n")

    return fill


@pytest.mark.parametrize("way", ["english", "russian"])
def test_an_index_in_which_words_find_no_golden_question_is_refused(tmp_path: Path, way: str) -> None:
    """It says how words are searched, and they are not found so: with the remedy, and nothing is registered."""
    with pytest.raises(errors.NotAllowed, match=rf"0% of 4 questions.*text_search: {way}.*language of its texts.*'ngram'.*'none'"):
        _register(_project(tmp_path, load=OPENED), fill=_corpus({words.KEY: way}))


@pytest.mark.parametrize("way", [words.NGRAM, words.NONE])
def test_an_index_in_which_words_are_found_or_not_searched_is_taken(tmp_path: Path, way: str) -> None:
    """Pieces of two letters find what words cannot; who wants no words is not bothered."""
    assert _register(_project(tmp_path, load=OPENED), fill=_corpus({words.KEY: way})) == {"outcome": "answered", "notes": []}


def test_an_index_that_does_not_say_how_words_are_searched_is_taken_with_a_note(tmp_path: Path) -> None:
    """Its service may search by meaning alone."""
    found = _register(_project(tmp_path, load=OPENED), fill=_corpus({}))
    assert found["outcome"] == "answered"
    (note,) = found["notes"]
    assert "0% of 4 questions" in note
    assert "'ngram'" in note


@pytest.mark.parametrize(
    ("load", "asked"),
    [
        pytest.param(OPENED, {"asked": ()}, id="no questions"),
        pytest.param(OPENED, {"kind": "unanswerable"}, id="none that the texts answer"),
        pytest.param("pass", {}, id="the bundle searches without the engine"),
    ],
)
def test_where_nothing_can_be_asked_nothing_is_said(tmp_path: Path, load: str, asked: dict[str, Any]) -> None:
    """An index alone is no reason to refuse."""
    assert _register(_project(tmp_path, load=load), fill=_corpus({words.KEY: "english"}, **asked)) == {"outcome": "answered", "notes": []}


def test_an_engine_that_cannot_be_asked_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The bundle answered without it, so it is taken."""
    monkeypatch.setenv("LASTGOOD_INDEX_URL", "nothing://at-all")
    found = _register(_project(tmp_path), fill=_corpus({words.KEY: "english"}))
    assert (found["outcome"], "the golden questions: index.url 'nothing://at-all'" in found["notes"][0]) == ("answered", True)


@pytest.mark.parametrize("text", ["{", "[]", '"golden"', '{"kind": "golden"}', '{"kind": "golden", "question": 3}', "\xff"])
def test_questions_of_another_form_are_nobodys(tmp_path: Path, text: str) -> None:
    """A data part may hold a file of that name for itself."""
    (tmp_path / trial_words.QUESTIONS).write_text(text, "latin-1")
    assert trial_words.golden(tmp_path) == []


PIECES = st.lists(
    st.sampled_from(["{", "}", "#", "%", "{ {", "ä", "語", "\u2028", "\t", "a b", "\n", "\n\n", "{{ '{#' }}", "{{ '{{' }}", "{{ '{%' }}"]),
    max_size=12,
)


@settings(max_examples=300, deadline=None)
@given(pieces=PIECES, value=st.text(max_size=20))
def test_what_is_accepted_comes_out_whole(tmp_path_factory: pytest.TempPathFactory, pieces: list[str], value: str) -> None:
    """Plain text of a prompt comes out as it stands, but for one line end at its end; what would not is refused."""
    text = "".join(pieces) + "{{ question }}|"
    work = tmp_path_factory.mktemp("p")
    _prompt(text)(work)
    try:
        prompts.check(work / "prompt")
    except errors.UsageError:
        return
    plain = text.replace("{{ question }}", "\0").replace("{{ '{#' }}", "{#").replace("{{ '{{' }}", "{{").replace("{{ '{%' }}", "{%")
    assert prompts.load(work / "prompt").render("user", question=value) == plain.replace("\0", value)


def test_an_old_prompt_with_a_comment_still_serves(tmp_path: Path) -> None:
    """It was accepted once, and a rollback may need it."""
    _prompt("a{# x #}b")(tmp_path)
    assert prompts.load(tmp_path / "prompt").render("user") == "ab"
