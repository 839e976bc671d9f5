"""What is watched of questions, on real documentation: usual ones pass, other topics and other tongues do not, and nothing is asked of the model."""

from __future__ import annotations

import math
import random
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pytest

from lastgood import release
from lastgood import settings as settings_
from lastgood.bundle import environment, manifest, store
from lastgood.drift import bundle_reference as drift_reference
from lastgood.drift import decision as drift_decision
from lastgood.drift import reference
from lastgood.drift import watch as drift_watch
from lastgood.index import base, embedders, snapshot
from lastgood.service import schema
from lastgood.serving import feedback, inference_log, segments
from services.helpdesk import build, drift, evaluate, models, pins, prepare, prompting, runtime, signals
from tests.drift import project as toy
from tests.services import samples

HOUR_S = 3600.0
START = toy.START
SERVICE = "helpdesk"
COOKING = (
    "How long should I boil an egg?",
    "best flour for sourdough bread",
    "roast chicken oven temperature",
    "vegetarian lasagna with spinach",
    "how to sharpen a kitchen knife",
    "caramelise onions slowly",
    "risotto without wine",
    "freeze fresh pasta",
)


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The service in a project of its own, without layers, and its parts."""
    root = tmp_path_factory.mktemp("helpdesk")
    shutil.copytree(samples.PROJECT / "services" / SERVICE, root / "services" / SERVICE, ignore=shutil.ignore_patterns("corpus", "minilm"))
    (root / "lastgood.toml").write_text(
        '[layers]\ninfrastructure = ""\ntraffic = ""\nregistry = ""\nindex = ""\nprompts = ""\nanswers = ""\n'
    )
    (root / "requirements.lock").write_text("helpdesk==1\n")
    work = root / "work"
    prepare.slice_of("5.2", out=work / "data", project=samples.PROJECT)
    reference.write(drift.reference(work / "data" / prepare.QUESTIONS), work / "data" / reference.FILE, at=drift.TIME)
    models.write(work / "model", embedder="wordllama")
    prompting.freeze(samples.PROJECT / "services/helpdesk/prompt", work / "prompt", replace={})
    build.build(work / "data", embedder=embedders.load(work / "model" / pins.EMBEDDER), out=work / "index")
    return root


@pytest.fixture
def ctx(project: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[release.Context]:
    """A home with one bundle that serves from START on."""
    settings = settings_.load(project, environ={"LASTGOOD_HOME": str(tmp_path / "home")})
    monkeypatch.setenv("LASTGOOD_PROJECT", str(project))
    monkeypatch.setenv("LASTGOOD_HOME", str(settings.home))
    with release.open_context(settings) as ctx:
        yield ctx


def released(ctx: release.Context, project: Path, *, at: float, find: int = 10) -> str:
    """A bundle of the parts, stable from *at* on."""
    kinds = {"data": store.DATA_FORMATS, "model": store.MODEL_FORMATS, "prompt": None, "index": None}
    stored = {name: ctx.store.put(project / "work" / name, **({"allow": allow} if allow else {})) for name, allow in kinds.items()}
    overlay = {"release": {"strategy": [], "bake_s": 2}, "evaluation": {}, "gates": {}}
    frozen = schema.freeze(ctx.settings.services / SERVICE, ctx.settings.home / f"config-{find}", options={"find": find}, overlay=overlay)
    stored["config"] = ctx.store.put(frozen, allow=store.CONFIG_FORMATS)
    described = environment.encode(environment.describe(ctx.settings.project / "requirements.lock"))
    stored["environment"] = ctx.store.put_bytes(described, name=environment.FILE)
    embedder = {"embedder": snapshot.read(project / "work" / "index").embedder}
    meta = {"model": embedder, "index": embedder}
    parts = [store.part(found, name=name, media_type="application/octet-stream", meta=meta.get(name, {})) for name, found in stored.items()]
    made = manifest.bundle_of(SERVICE, *parts)
    release.register(ctx, made, provenance={}, actor="test", now=at - 10, untried=True)
    toy.promote_service(ctx, SERVICE, made.id, at=at)
    return made.id


def ask(ctx: release.Context, bundle: str, hour: int, questions: Sequence[str], *, count: int = 80) -> None:
    """*count* of the *questions*, asked in the *hour*th hour after START, each with what its user said."""
    draw = random.Random(hour)
    answered, told = [], []
    for number in range(count):
        at, name = START + (hour + number / count) * HOUR_S, f"h{hour}-{number}"
        answered += inference_log.Answered(
            request_id=name, at=at, bundle=bundle, arm="stable", shadow=False, latency_us=900,
            rows=[runtime.Question(question=draw.choice(questions))], outputs=[{"answer": "…", "refused": False}],
        ).as_rows()  # fmt: skip
        told.append(feedback.Feedback(request_id=name, helpful=True).as_row(at=at + 1, label=1.0))
    tables = {
        inference_log.PREDICTIONS: inference_log.table_maker(runtime.Question)(answered),
        inference_log.FEEDBACK: feedback.to_table(told),
    }
    for log, table in tables.items():
        folder = ctx.settings.inference(SERVICE) / log / segments.day_name(START + hour * HOUR_S)
        segments.write_segment(table, folder, name=segments.segment_name("worker-1-abcd", hour + 1, hour + 1))


def titles(project: Path) -> list[str]:
    """What the documentation was tried with."""
    return [one["question"] for one in evaluate.read_questions(project / "work" / "data" / prepare.QUESTIONS) if one["kind"] == drift.KIND]


def test_other_questions_are_an_alarm_and_a_person_is_asked(ctx: release.Context, project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Usual hours pass; cooks are drift, by how near the documentation is to them; labels of answers decide nothing."""
    asked_model: list[int] = []
    real = runtime.Runtime.predict
    released(ctx, project, at=START - 1000, find=9)
    bundle = released(ctx, project, at=START)
    what = drift_watch.watch_of_service(ctx, SERVICE)
    loaded = drift_reference.load(ctx.settings, ctx.ledger.bundle(bundle))
    monkeypatch.setattr(type(loaded.runtime), "predict", lambda self, rows: asked_model.append(len(rows)) or real(self, rows))
    usual = titles(project)
    for hour in range(4):
        ask(ctx, bundle, hour, usual)
    for hour in range(4, 7):
        ask(ctx, bundle, hour, [*COOKING, *usual[:4]])
    found = drift_watch.evaluate_next_window(ctx, what, now=START + 7 * HOUR_S + 10)
    assert [one.verdict["outcome"] for one in found[:4]].count("pass") >= 3, [one.verdict["why"] for one in found[:4]]
    assert [one.verdict["outcome"] for one in found[4:]] == ["fail"] * 3
    columns = {column["name"]: column for column in found[4].verdict["columns"]}
    assert columns["made similarity"]["outcome"] == "fail"
    assert "question" not in columns or columns["question"]["outcome"] == "pass"
    assert found[-1].episode.alarm == START + 4 * HOUR_S
    assert asked_model == [1]  # whether it answers with a probability; the reference's 2,000 questions are not answered
    look = drift_decision.due(ctx, what, now=START + 40 * HOUR_S)
    decision = drift_decision.decide(ctx, what, look)
    assert decision.outcome == "ask"
    assert "not probabilities" in decision.why


def test_questions_in_a_tongue_that_it_does_not_know_are_far_from_everything(ctx: release.Context, project: Path) -> None:
    """How near the documentation is to them says it first."""
    bundle = released(ctx, project, at=START)
    ask(ctx, bundle, 0, ["Πώς βράζω ένα αυγό;", "как сварить яйцо", "卵をゆでる"])
    (one,) = drift_watch.evaluate_next_window(ctx, drift_watch.watch_of_service(ctx, SERVICE), now=START + HOUR_S + 10)
    assert one.verdict["outcome"] == "fail"
    assert {column["name"] for column in one.verdict["columns"][:2]} == {"made similarity", "made similarity_mean"}
    assert one.verdict["columns"][0]["distance"] > 2


class Mute:
    """An embedder that knows no word of "zzz", beside one that does; and an index that may not be asked about it."""

    def embed(self, texts: Sequence[str]) -> np.ndarray:
        return np.array([[0.0, 0.0] if text == "zzz" else [0.6, 0.8] for text in texts], dtype=np.float32)

    def search(self, vector: np.ndarray, *, k: int) -> list[base.Hit]:
        assert vector.any()
        return [base.Hit(row=snapshot.Row(id=str(n), text="", meta={}), score=1.0 - n / 10) for n in range(k)]


def test_a_question_without_a_known_word_is_missing() -> None:
    """It has a length and no direction, and nothing is looked for."""
    made = signals.of(["zzz", "a b"], reader=Mute(), embedder=Mute(), directions=np.eye(2), k=3)
    assert made["words"] == [1.0, 2.0]
    assert (made["similarity"][1], made["similarity_mean"][1], made["topic_2"][1]) == pytest.approx((1.0, 0.9, 0.8))
    assert all(math.isnan(made[name][0]) for name in ("similarity", "similarity_mean", "topic_1", "topic_2"))
    assert signals.of([], reader=Mute(), embedder=Mute(), directions=np.eye(2), k=3)["words"] == []


def test_signals_are_told_once_for_each_question(ctx: release.Context, project: Path) -> None:
    """Equal questions have equal numbers; the directions are the same each time, and orthogonal."""
    bundle = released(ctx, project, at=START)
    opened = drift_reference.load(ctx.settings, ctx.ledger.bundle(bundle)).runtime
    rows = [opened.Request(question=text) for text in ("raw SQL queries", "eggs", "raw SQL queries")]
    made = opened.features(rows)
    assert set(made) == {"similarity", "similarity_mean", "words", *(f"topic_{n}" for n in range(1, signals.TOPICS + 1))}
    assert all(values[0] == values[2] for values in made.values())
    assert made["words"] == [3.0, 1.0, 3.0]
    assert made["similarity"][0] >= made["similarity_mean"][0] > 0.2
    assert made["similarity"][0] > made["similarity"][1]
    found = signals.directions(project / "work" / "index")
    assert np.array_equal(found, signals.directions(project / "work" / "index"))
    assert np.allclose(found.T @ found, np.eye(signals.TOPICS))
    assert opened.features([]) is not None


def test_the_reference_is_the_same_each_time(project: Path) -> None:
    """And holds the questions about as often as each other."""
    file = project / "work" / "data" / prepare.QUESTIONS
    first = drift.reference(file)
    assert first.equals(drift.reference(file))
    assert first.num_rows == drift.ROWS
    assert set(first["question"].to_pylist()) == set(titles(project))
