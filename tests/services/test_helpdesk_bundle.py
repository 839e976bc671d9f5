"""Parts of helpdesk together: what is built, loaded, asked and measured."""

from __future__ import annotations

import dataclasses
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from demos import helpdesk_load as load
from lastgood import errors
from lastgood.index import embedders, lancedb, snapshot
from lastgood.llm import judge
from lastgood.settings import Settings
from services.helpdesk import build, evaluate, models, pins, prepare, prompting, retrieval, runtime
from tests.services import samples


@dataclasses.dataclass(frozen=True)
class Parts:
    """The folders of one bundle, and where the engine is."""

    folders: Mapping[str, Path]
    settings: Settings

    def open(self, **options: Any) -> runtime.Runtime:
        """Loaded as a worker does."""
        return runtime.Runtime.open(self.folders, options, settings=self.settings)

    def with_(self, **folders: Path) -> Parts:
        """Other folders for some parts."""
        return dataclasses.replace(self, folders={**self.folders, **folders})


@pytest.fixture(scope="module")
def parts(tmp_path_factory: pytest.TempPathFactory) -> Parts:
    """A small corpus (the FAQ alone), the default models and prompt, and the index of them."""
    root = tmp_path_factory.mktemp("helpdesk")
    shutil.copytree(samples.PROJECT / prepare.SLICES / "django-5.2" / "faq", root / "docs" / "faq")
    prepare.build(root / "docs", root / "data", version="5.2")
    models.write(root / "model", embedder="wordllama")
    prompting.freeze(samples.PROJECT / "services/helpdesk/prompt", root / "prompt", replace={})
    build.build(root / "data", embedder=embedders.load(root / "model" / pins.EMBEDDER), out=root / "index")
    folders = {name: root / name for name in ("data", "model", "prompt", "index")}
    return Parts(folders=folders, settings=Settings(project=samples.PROJECT, home=root / "home"))


def test_a_question_is_answered_from_its_section(parts: Parts) -> None:
    """With the sections named, and the same again."""
    opened = parts.open()
    asked = runtime.Question(question="How can I see the raw SQL queries Django is running?")
    (said,) = opened.predict([asked])
    assert said["sources"][0]["id"].startswith("faq/models.txt#how-can-i-see-the-raw-sql")
    assert "[faq/models.txt#how-can-i-see-the-raw-sql" in said["answer"]
    assert not said["refused"]
    assert opened.predict([asked, asked]) == [said, said]
    assert said["made_of"]["index"] == snapshot.read(parts.folders["index"]).id
    opened.close()


def test_what_nothing_answers_is_refused(parts: Parts) -> None:
    """In the words of the pin."""
    opened = parts.open()
    (said,) = opened.predict([runtime.Question(question="How long should I boil an egg?")])
    assert (said["refused"], said["answer"]) == (True, "The documentation does not say.")
    opened.close()


@pytest.mark.parametrize("way", ["hybrid", "vector", "text"])
def test_every_way_of_searching_finds_something(parts: Parts, way: retrieval.Way) -> None:
    """As the options say; a question without a known word finds nothing and breaks nothing."""
    opened = parts.open(retrieval=way, find=5)
    assert 0 < len(opened.find("raw SQL queries")) <= 5
    assert isinstance(opened.predict([runtime.Question(question="🦓")]), list)
    opened.close()


def test_the_warm_up_is_answered(parts: Parts) -> None:
    """The rows are valid ones."""
    opened = parts.open()
    assert len(opened.predict([runtime.Question.model_validate(row) for row in opened.warm_up()])) == 2
    opened.close()


def test_feedback_is_read_strictly(parts: Parts) -> None:
    """True, false, nothing said; anything else is told to the sender."""
    opened = parts.open()
    assert [opened.label({"helpful": value}) for value in (True, False)] == [1.0, 0.0]
    assert opened.label({"other": 3}) is None
    with pytest.raises(ValueError, match="true or false"):
        opened.label({"helpful": 1})
    opened.close()


def test_an_index_of_another_embedder_never_opens(parts: Parts, tmp_path: Path) -> None:
    """Whatever a manifest says: the code that loads it looks at both."""
    models.write(tmp_path / "model", embedder="minilm")
    with pytest.raises(errors.NotAllowed, match="build the index again"):
        parts.with_(model=tmp_path / "model").open()


def test_a_lost_or_damaged_replica_is_made_again(parts: Parts) -> None:
    """By whoever opens it: the part in the store is all that is needed."""
    parts.open().close()
    root = parts.settings.home / "index"
    name = snapshot.read(parts.folders["index"]).name
    file = next((root / name / "lance").rglob("data/*.lance"))
    file.chmod(0o644)
    file.write_bytes(b"\0" * 100)
    parts.open().close()
    lancedb.LanceIndex(root).verify(name, deep=True)


@pytest.mark.parametrize(("options", "match"), [({"retrieval": "magic"}, "retrieval"), ({"k": 3}, "k"), ({"find": 0}, "find")])
def test_wrong_options_are_told(parts: Parts, options: dict[str, Any], match: str) -> None:
    """With the key."""
    with pytest.raises(errors.UsageError, match=match):
        parts.open(**options)


def test_a_model_part_that_says_nothing_usable_is_damaged(parts: Parts, tmp_path: Path) -> None:
    """Or pins a model that is none."""
    shutil.copytree(parts.folders["model"], tmp_path / "model")
    for text in ("{", "[]", '{"schema": "x", "answerer": {}}'):
        (tmp_path / "model" / pins.FILE).write_text(text)
        with pytest.raises(errors.Damaged, match="build the model part again"):
            parts.with_(model=tmp_path / "model").open()
    pins.write(tmp_path / "model", answerer={"provider": "openai", "model": "gpt-latest"})
    with pytest.raises(errors.UsageError, match="can change without notice"):
        parts.with_(model=tmp_path / "model").open()


# --- building and measuring ----------------------------------------------------------------------------------


def test_an_index_on_top_of_the_last_one_is_the_same_as_from_scratch(parts: Parts, tmp_path: Path) -> None:
    """Byte for byte, and only what is new was embedded."""
    embedder = embedders.load(parts.folders["model"] / pins.EMBEDDER)
    shutil.copytree(samples.PROJECT / prepare.SLICES / "django-6.0" / "faq", tmp_path / "docs" / "faq")
    prepare.build(tmp_path / "docs", tmp_path / "data", version="6.0")
    scratch = build.build(tmp_path / "data", embedder=embedder, out=tmp_path / "scratch")
    onto = build.build(tmp_path / "data", embedder=embedder, out=tmp_path / "onto", previous=parts.folders["index"])
    assert onto.snapshot == scratch.snapshot
    for file in (tmp_path / "scratch").iterdir():
        assert (tmp_path / "onto" / file.name).read_bytes() == file.read_bytes()
    assert 0 < onto.embedded < scratch.embedded == scratch.snapshot.rows
    assert onto.same + onto.changed + onto.added == onto.snapshot.rows
    assert scratch.added == scratch.snapshot.rows


def test_vectors_of_another_embedder_are_not_taken_over(parts: Parts, tmp_path: Path) -> None:
    """They would be noise."""
    models.write(tmp_path / "model", embedder="minilm")
    embedder = embedders.load(tmp_path / "model" / pins.EMBEDDER)
    few = tmp_path / "few"
    few.mkdir()
    for name in (prepare.CORPUS, prepare.QUESTIONS):
        shutil.copy(parts.folders["data"] / name, few)
    (few / prepare.CHUNKS).write_text("".join((parts.folders["data"] / prepare.CHUNKS).read_text().splitlines(keepends=True)[:3]))
    made = build.build(few, embedder=embedder, out=tmp_path / "index", previous=parts.folders["index"])
    assert made.embedded == made.snapshot.rows == 3
    assert (made.snapshot.dim, made.same) == (384, 3)


def test_an_empty_corpus_makes_no_index(parts: Parts, tmp_path: Path) -> None:
    """It is refused before anything is written."""
    shutil.copytree(parts.folders["data"], tmp_path / "data")
    (tmp_path / "data" / prepare.CHUNKS).write_text("")
    with pytest.raises(errors.UsageError, match="check the corpus"):
        build.build(tmp_path / "data", embedder=embedders.load(parts.folders["model"] / pins.EMBEDDER), out=tmp_path / "index")


def test_the_evaluation_measures_what_is_released(parts: Parts) -> None:
    """Good at its own questions; a prompt that drowns the question is worse in every figure of the search."""
    good = evaluate.evaluate(parts.folders, {}, settings=parts.settings)["metrics"]
    assert good["questions"] >= 40
    assert good["recall_at_10"] > 0.7
    assert 0 < good["ndcg_at_10"] <= 1
    assert good["grounded"] > 0.95
    assert good["refused_rightly"] > 0.5
    drowned = parts.folders["prompt"].parent / "drowned"
    prompting.freeze(
        samples.PROJECT / "services/helpdesk/prompt", drowned, replace={"query": "admin media files server Apache error {{ question }}"}
    )
    bad = evaluate.evaluate({**parts.folders, "prompt": drowned}, {}, settings=parts.settings)["metrics"]
    assert all(bad[name] < good[name] for name in ("recall_at_10", "ndcg_at_10", "mrr_at_10", "helpful"))


def test_a_judge_is_asked_about_every_golden_answer_if_there_is_one(parts: Parts) -> None:
    """With the passages that the answer was made of; its figures stand beside the others, and its name in the report."""

    class Strict(judge.Judge):
        name = "strict"

        def judge(self, case: judge.Case) -> judge.Judged:
            return judge.Judged(score=1.0 if case.answer[:20] in " ".join(one.text for one in case.passages) else 0.0, why="")

    report = evaluate.evaluate(parts.folders, {}, settings=parts.settings, judge=Strict())
    assert report["judged"]["judge"] == "strict"
    assert report["metrics"]["judged_share"] == 1.0
    assert report["metrics"]["judged_mean"] > 0.5
    assert len(report["judged"]["worst"]) == 10


def test_groundedness_is_the_share_of_words_that_are_there() -> None:
    """Names of sources aside."""
    assert evaluate.groundedness("The cookie holds it. [faq/x.txt#unknown-words]", "the cookie holds") == 1.0
    assert evaluate.groundedness("invented words", "the cookie") == 0.0
    assert evaluate.groundedness("", "x") == 1.0


def test_a_prompt_without_what_the_service_renders_is_refused(tmp_path: Path) -> None:
    """When it is frozen, not when somebody asks."""
    folder = tmp_path / "prompt"
    folder.mkdir()
    (folder / "prompt.yaml").write_text("schema: lastgood.prompt/v1\nvariables: {question: text}\nparts: {user: user.txt}\n")
    (folder / "user.txt").write_text("{{ question }}")
    with pytest.raises(errors.UsageError, match="lacks system, query"):
        prompting.freeze(folder, tmp_path / "out", replace={})


def test_users_say_what_helped(parts: Parts) -> None:
    """An answer that names the right section, whichever part of it."""
    one = {"question": "Sessions?", "answers": ["a.txt#x", "a.txt#x~2"]}
    request = load.request(one, 0)
    for name, helped in (("a.txt#x~3", True), ("a.txt#x", True), ("a.txt#y", False)):
        assert request.outcome({"predictions": [{"sources": [{"id": name}]}]}) == {"helpful": helped}
    assert next(load.requests([one])).body == b'{"question": "Sessions?"}'


def test_vectors_are_those_of_the_embedder(parts: Parts) -> None:
    """Of unit length, one for each chunk."""
    vectors = snapshot.read_vectors(parts.folders["index"])
    assert np.allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-5)
