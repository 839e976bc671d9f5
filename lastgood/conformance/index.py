"""What every vector engine must do, as pytest classes. An engine's tests subclass `IndexSuite` and give the fixture `subject`:

    class TestMine(IndexSuite):
        @pytest.fixture
        def subject(self, tmp_path): ...  # yields a Subject around a fresh engine

What does not belong here: what only one engine does (its own tests).
"""

# ruff: noqa: S101  # these are tests; pytest runs them wherever they are subclassed

from __future__ import annotations

import abc
import concurrent.futures
import itertools
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from lastgood import errors
from lastgood.index import base, words
from lastgood.index import snapshot as index_snapshot

DIM = 16
EMBEDDER = "sha256:" + "e" * 64

TEXTS = (
    "A model is the single source of information about your data.",
    "Each attribute of the model represents a database field.",
    "Sessions keep what a visitor did between two requests.",
    "A migration changes the tables so that they fit the models.",
    "Größe, naïve café, 日本語 and 🦓: names may hold any letter.",
)


class Subject(abc.ABC):
    """One fresh engine, and the means to break the world around it."""

    engine: base.VectorIndex
    folder: Path
    leases: bool = True
    """Whether the engine knows of readers in other processes."""

    @abc.abstractmethod
    def reopen(self) -> base.VectorIndex:
        """A second engine object on the same world, as another process would create it."""

    @abc.abstractmethod
    def tamper(self, name: str) -> None:
        """Change a row of the replica *name* outside the engine."""

    @abc.abstractmethod
    def take_down(self) -> None:
        """Make what the engine talks to unreachable."""

    @abc.abstractmethod
    def bring_up(self) -> None:
        """Undo `take_down`."""


def make_rows(count: int, *, word: str = "row") -> list[index_snapshot.Row]:
    """*count* rows with text and meta of every allowed kind."""
    return [
        index_snapshot.Row(
            id=f"doc/{number}#ä-{number % 3}",
            text=f"{word} {number}: {TEXTS[number % len(TEXTS)]}",
            meta={"path": f"doc/{number}", "part": number, "new": number % 2 == 0, "none": None, "quote": 'it\'s "so" \\ \n'},
        )
        for number in range(count)
    ]


def make_vectors(count: int, *, seed: int = 1, dim: int = DIM) -> Any:
    """(count, dim) float32 vectors of unit length."""
    import numpy as np

    drawn = np.random.default_rng(seed).normal(size=(count, dim))
    return (drawn / np.linalg.norm(drawn, axis=1, keepdims=True)).astype(np.float32)


def make_part(out: Path, *, count: int = 60, seed: int = 1, word: str = "row") -> index_snapshot.Snapshot:
    """An index part of *count* rows in the new folder *out*."""
    return index_snapshot.write(make_rows(count, word=word), make_vectors(count, seed=seed), out, embedder=EMBEDDER)


LANGUAGES: Mapping[str, tuple[tuple[str, ...], tuple[tuple[str, int], ...]]] = {
    "german": (
        ("Die Häuser der Stadt wurden verkauft.", "Ein Vertrag wird schriftlich gekündigt.", "Das Wetter bleibt schön."),
        (("Haus", 0), ("Häusern", 0), ("Verträge", 1), ("Kündigungen eines Vertrags", 1)),
    ),
    "russian": (
        ("Договор был подписан вчера.", "Кошки спят на диване.", "Погода хорошая."),
        (("договоры", 0), ("договором", 0), ("кошка", 1)),
    ),
    words.NGRAM: (
        ("東京都の天気は晴れです。", "数据库的迁移改变表格。", "데이터베이스를 복구합니다.", "ฐานข้อมูลถูกสำรองไว้ทุกวัน", "Plain words, too."),
        (("天気", 0), ("迁移", 1), ("데이터베이스", 2), ("ฐานข้อมูล", 3), ("words", 4)),
    ),
}
"""By `text_search`: texts, and questions with the number of the text that they have to find first."""


def fails(kind: type[errors.LastgoodError] | tuple[type[errors.LastgoodError], ...], call: Any) -> errors.LastgoodError:
    """The error that *call* has to raise."""
    try:
        call()
    except kind as error:
        return error
    raise AssertionError(f"nothing of {kind} was raised")


class IndexSuite:
    """See the module."""

    # --- building --------------------------------------------------------------------------------------------

    def test_a_replica_is_what_the_part_says(self, subject: Subject) -> None:
        """Built, listed, complete, and the same when built again."""
        snapshot = make_part(subject.folder / "part")
        built = subject.engine.build(subject.folder / "part")
        assert (built.name, built.snapshot) == (snapshot.name, snapshot)
        assert [one.name for one in subject.engine.replicas()] == [snapshot.name]
        subject.engine.verify(snapshot.name, deep=False)
        subject.engine.verify(snapshot.name, deep=True)
        again = subject.reopen().build(subject.folder / "part")
        assert (again.name, again.snapshot, again.built_at) == (built.name, built.snapshot, built.built_at)

    def test_several_builders_at_once_make_one_replica(self, subject: Subject) -> None:
        """Each returns with it, complete."""
        snapshot = make_part(subject.folder / "part")
        engines = [subject.reopen() for _ in range(3)]
        with concurrent.futures.ThreadPoolExecutor(3) as pool:
            built = list(pool.map(lambda engine: engine.build(subject.folder / "part"), engines))
        assert {one.name for one in built} == {snapshot.name}
        subject.engine.verify(snapshot.name, deep=True)
        assert [one.name for one in subject.engine.replicas()] == [snapshot.name]

    def test_a_part_that_is_not_what_it_says_is_refused(self, subject: Subject) -> None:
        """One vector changed: nothing is listed."""
        snapshot = make_part(subject.folder / "part")
        file = subject.folder / "part" / index_snapshot.VECTORS
        data = bytearray(file.read_bytes())
        data[-3] ^= 0x10
        file.write_bytes(data)
        fails(errors.Damaged, lambda: subject.engine.build(subject.folder / "part"))
        assert subject.engine.replicas() == []
        fails(errors.NotFound, lambda: subject.engine.open(snapshot.name))

    def test_a_replica_that_was_tampered_with_is_found_out_and_replaced(self, subject: Subject) -> None:
        """By a deep check; after the next build it is complete."""
        snapshot = make_part(subject.folder / "part")
        subject.engine.build(subject.folder / "part")
        subject.tamper(snapshot.name)
        fails(errors.Damaged, lambda: subject.engine.verify(snapshot.name, deep=True))
        self.repair(subject, snapshot.name)
        subject.engine.verify(snapshot.name, deep=True)

    def test_a_reader_goes_on_when_its_replica_is_replaced(self, subject: Subject) -> None:
        """Repairing a damaged replica does not break a serving one; it may be reported as unavailable for moments."""
        snapshot = make_part(subject.folder / "part")
        reader = subject.engine.open(subject.engine.build(subject.folder / "part").name)
        query = make_vectors(1, seed=9)[0]
        before = reader.search(query, k=5)
        subject.tamper(snapshot.name)
        self.repair(subject, snapshot.name)
        assert reader.search(query, k=5) == before
        if reader.text_search:
            assert reader.search_text("visitor sessions", k=3)
        reader.close()

    def repair(self, subject: Subject, name: str) -> None:
        """Building also repairs; an engine that only counts when it builds needs the replica removed first."""
        subject.engine.build(subject.folder / "part")

    # --- answers ---------------------------------------------------------------------------------------------

    def test_the_nearest_rows_are_found_with_all_that_they_hold(self, subject: Subject) -> None:
        """As plain arithmetic gives them, best first."""
        make_part(subject.folder / "part")
        reader = subject.engine.open(subject.engine.build(subject.folder / "part").name)
        vectors, rows = make_vectors(60), make_rows(60)
        query = make_vectors(1, seed=9)[0]
        expected = sorted(range(60), key=lambda number: -float(vectors[number] @ query))[:7]
        hits = reader.search(query, k=7)
        assert [hit.row for hit in hits] == [rows[number] for number in expected]
        assert all(abs(hit.score - float(vectors[number] @ query)) < 1e-5 for hit, number in zip(hits, expected, strict=True))
        reader.close()

    def test_more_than_there_is_gives_all(self, subject: Subject) -> None:
        """A thousand requested out of sixty."""
        make_part(subject.folder / "part")
        reader = subject.engine.open(subject.engine.build(subject.folder / "part").name)
        assert len(reader.search(make_vectors(1)[0], k=1000)) == 60
        reader.close()

    def test_a_query_that_does_not_fit_is_refused(self, subject: Subject) -> None:
        """Of another dimension, or not finite."""
        make_part(subject.folder / "part")
        reader = subject.engine.open(subject.engine.build(subject.folder / "part").name)
        error = fails(errors.UsageError, lambda: reader.search(make_vectors(1, dim=DIM + 1)[0], k=3))
        assert "embedder" in str(error)
        fails(errors.UsageError, lambda: reader.search(make_vectors(1)[0] * float("nan"), k=3))
        reader.close()

    def test_words_are_found_and_no_text_is_a_command(self, subject: Subject) -> None:
        """Whatever a user types; an engine without word search reports that."""
        make_part(subject.folder / "part")
        reader = subject.engine.open(subject.engine.build(subject.folder / "part").name)
        if not reader.text_search:
            fails(errors.NotAllowed, lambda: reader.search_text("sessions", k=3))
            return
        found = reader.search_text("visitor sessions", k=5)
        assert found
        assert all("Sessions" in hit.row.text for hit in found)
        assert [hit.score for hit in found] == sorted((hit.score for hit in found), reverse=True)
        assert reader.search_text("xyzzy", k=5) == []
        for text in ("", "   ", "'", '"', "a & | ! (b", "x:*", "-", "🦓", "日本語", "\\", "OR 1=1; --", "a\nb", "w " * 5000, "the"):
            assert isinstance(reader.search_text(text, k=3), list)
        reader.close()

    def test_words_are_found_in_the_language_of_the_texts(self, subject: Subject) -> None:
        """Inflected forms, and writing without spaces: the engine does what the snapshot configures, or reports that it cannot."""
        for way, (texts, questions) in LANGUAGES.items():
            rows = [index_snapshot.Row(id=str(number), text=text) for number, text in enumerate(texts)]
            part = subject.folder / way
            index_snapshot.write(rows, make_vectors(len(rows)), part, embedder=EMBEDDER, spec={words.KEY: way})
            reader = subject.engine.open(subject.engine.build(part).name)
            for question, number in questions if reader.text_search else ():
                found = [hit.row.id for hit in reader.search_text(question, k=3)]
                assert found[:1] == [str(number)], f"{way}: {question!r} finds {found}"
            for text in ("", "'", "a & | ! (b", "x:*", "\\", "日", "🦓", "w " * 500) if reader.text_search else ():
                assert isinstance(reader.search_text(text, k=3), list)
            reader.close()

    def test_every_language_can_be_built(self, subject: Subject) -> None:
        """And a word finds itself."""
        for way in words.LANGUAGES:
            rows = [index_snapshot.Row(id=str(number), text=text) for number, text in enumerate(("Lastgood 2026", "migration"))]
            part = subject.folder / way
            index_snapshot.write(rows, make_vectors(2), part, embedder=EMBEDDER, spec={words.KEY: way})
            reader = subject.engine.open(subject.engine.build(part).name)
            if reader.text_search:
                assert [hit.row.id for hit in reader.search_text("Lastgood", k=3)] == ["0"], way
            reader.close()

    def test_a_snapshot_without_words_says_so(self, subject: Subject) -> None:
        """`none` is refused for word search, and still found by vector search."""
        index_snapshot.write(make_rows(5), make_vectors(5), subject.folder / "part", embedder=EMBEDDER, spec={words.KEY: words.NONE})
        name = subject.engine.build(subject.folder / "part").name
        subject.engine.verify(name, deep=True)
        reader = subject.engine.open(name)
        assert not reader.text_search
        fails(errors.NotAllowed, lambda: reader.search_text("model", k=3))
        assert len(reader.search(make_vectors(1)[0], k=3)) == 3
        reader.close()

    def test_two_replicas_of_equal_parts_answer_alike(self, subject: Subject) -> None:
        """Even if one of them was retired and rebuilt."""
        snapshot = make_part(subject.folder / "part")
        answers = []
        for _ in range(2):
            reader = subject.engine.open(subject.engine.build(subject.folder / "part").name)
            answers.append([reader.search(query, k=5) for query in make_vectors(5, seed=3)])
            reader.close()
            subject.engine.retire(snapshot.name)
        assert answers[0] == answers[1]

    # --- readers and ends ------------------------------------------------------------------------------------

    def test_a_reader_goes_on_while_others_come_and_go(self, subject: Subject) -> None:
        """Another snapshot is built, opened and retired; the answers do not change."""
        make_part(subject.folder / "part")
        other = make_part(subject.folder / "other", seed=2, word="other")
        reader = subject.engine.open(subject.engine.build(subject.folder / "part").name)
        before = reader.search(make_vectors(1, seed=9)[0], k=5)
        fresh = subject.engine.open(subject.engine.build(subject.folder / "other").name)
        assert {hit.row.text.split()[0] for hit in fresh.search(make_vectors(1, seed=9)[0], k=5)} == {"other"}
        assert reader.search(make_vectors(1, seed=9)[0], k=5) == before
        fresh.close()
        subject.engine.retire(other.name)
        assert reader.search(make_vectors(1, seed=9)[0], k=5) == before
        reader.close()

    def test_what_is_open_is_not_retired(self, subject: Subject) -> None:
        """Refused, also when seen from another process; works once it is closed; a repetition is fine."""
        snapshot = make_part(subject.folder / "part")
        reader = subject.engine.open(subject.engine.build(subject.folder / "part").name)
        if subject.leases:
            fails(errors.NotAllowed, lambda: subject.reopen().retire(snapshot.name))
            assert reader.search(make_vectors(1)[0], k=1)
        reader.close()
        reader.close()
        subject.engine.retire(snapshot.name)
        subject.engine.retire(snapshot.name)
        assert subject.engine.replicas() == []
        fails(errors.NotFound, lambda: subject.engine.open(snapshot.name))
        fails(errors.NotFound, lambda: subject.engine.verify(snapshot.name, deep=False))

    def test_a_closed_reader_says_so(self, subject: Subject) -> None:
        """It does not answer from something else."""
        make_part(subject.folder / "part")
        reader = subject.engine.open(subject.engine.build(subject.folder / "part").name)
        reader.close()
        fails(errors.UsageError, lambda: reader.search(make_vectors(1)[0], k=1))

    # --- aliases ---------------------------------------------------------------------------------------------

    def test_an_alias_stands_for_one_replica(self, subject: Subject) -> None:
        """Set, moved, set again, removed; for an existing replica."""
        first = make_part(subject.folder / "part")
        second = make_part(subject.folder / "other", seed=2)
        for name in ("part", "other"):
            subject.engine.build(subject.folder / name)
        for target in (first.name, second.name, second.name):
            subject.engine.point("demo-stable", target)
            assert self.aliases(subject) == {"demo-stable": target}
        fails(errors.NotFound, lambda: subject.engine.point("demo-stable", "idx0000000000000000"))
        assert self.aliases(subject) == {"demo-stable": second.name}
        subject.engine.point("demo-stable", None)
        subject.engine.point("demo-stable", None)
        assert self.aliases(subject) == {}

    def aliases(self, subject: Subject) -> dict[str, str]:
        """As another process sees them."""
        return {alias: one.name for one in subject.reopen().replicas() for alias in one.aliases}

    # --- faults ----------------------------------------------------------------------------------------------

    def test_an_engine_that_is_away_says_so_and_comes_back(self, subject: Subject) -> None:
        """Every call; an open reader recovers by itself."""
        snapshot = make_part(subject.folder / "part")
        make_part(subject.folder / "other", seed=2)
        reader = subject.engine.open(subject.engine.build(subject.folder / "part").name)
        query = make_vectors(1)[0]
        before = reader.search(query, k=3)
        subject.take_down()
        calls: Sequence[Any] = (subject.engine.replicas, lambda: subject.engine.build(subject.folder / "other"))
        for call in calls:
            fails((errors.Unavailable, errors.NotFound), call)
        subject.bring_up()
        assert reader.search(query, k=3) == before
        assert [one.name for one in subject.engine.replicas()] == [snapshot.name]
        reader.close()

    def test_names_that_are_none_are_not_found(self, subject: Subject) -> None:
        """Whatever is in them."""
        for name in ("idx1234567890abcdef", "nothing", "../etc", 'a"; DROP TABLE x; --', ""):
            fails(errors.NotFound, lambda name=name: subject.engine.open(name))

    def test_many_threads_may_ask_one_reader(self, subject: Subject) -> None:
        """Each gets the answer to its own question."""
        make_part(subject.folder / "part")
        reader = subject.engine.open(subject.engine.build(subject.folder / "part").name)
        vectors, rows = make_vectors(60), make_rows(60)
        with concurrent.futures.ThreadPoolExecutor(4) as pool:
            found = list(pool.map(lambda number: reader.search(vectors[number], k=1)[0].row, range(20)))
        assert found == list(itertools.islice(rows, 20))
        reader.close()
