"""The engines do what every engine must do."""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import sys
import uuid
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import psycopg
import pytest

from lastgood import errors
from lastgood.conformance import index as suite
from lastgood.index import lancedb, pgvector, pinecone
from lastgood.index import snapshot as index_snapshot
from tests import postgres
from tests.index import pinecone_fake


class LanceSubject(suite.Subject):
    """LanceDB in a folder; away means that a file stands where the folder was."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.root = folder / "index"
        self.engine = lancedb.LanceIndex(self.root)

    def reopen(self) -> lancedb.LanceIndex:
        """Another object on the same folder."""
        return lancedb.LanceIndex(self.root)

    def tamper(self, name: str) -> None:
        """One bit of a data file."""
        file = max((self.root / name / "lance").rglob("data/*.lance"), key=lambda path: path.stat().st_size)
        file.chmod(0o644)
        data = bytearray(file.read_bytes())
        data[len(data) // 3] ^= 0x04
        file.write_bytes(data)

    def take_down(self) -> None:
        """Put a file in the folder's place."""
        self.root.rename(self.folder / "away")
        self.root.write_text("no folder")

    def bring_up(self) -> None:
        """Put the folder back."""
        self.root.unlink()
        (self.folder / "away").rename(self.root)


class TestLance(suite.IndexSuite):
    """The suite, on LanceDB."""

    @pytest.fixture
    def subject(self, tmp_path: Path) -> LanceSubject:
        """A fresh engine."""
        return LanceSubject(tmp_path)


@pytest.fixture(scope="module")
def server() -> Iterator[postgres.Server]:
    """A Postgres of this module."""
    with postgres.serving() as started:
        yield started


class PostgresSubject(suite.Subject):
    """pgvector in a schema of its own."""

    def __init__(self, folder: Path, server: postgres.Server, schema: str) -> None:
        self.folder, self.server, self.schema = folder, server, schema
        self.engine = self.reopen()

    def reopen(self) -> pgvector.PgvectorIndex:
        """Another object on the same schema."""
        return pgvector.PgvectorIndex(self.server.url("postgres"), schema=self.schema)

    def tamper(self, name: str) -> None:
        """One number of one vector."""
        with psycopg.connect(self.server.url("postgres"), autocommit=True) as connection:
            table = f'"{self.schema}"."{name}"'
            connection.execute(f"UPDATE {table} SET embedding = embedding + embedding WHERE id = (SELECT min(id) FROM {table})")

    def take_down(self) -> None:
        """Kill the server."""
        self.server.kill()

    def bring_up(self) -> None:
        """Start it again."""
        self.server.start()


class TestPgvector(suite.IndexSuite):
    """The suite, on pgvector."""

    @pytest.fixture
    def subject(self, tmp_path: Path, server: postgres.Server) -> PostgresSubject:
        """A fresh schema."""
        return PostgresSubject(tmp_path, server, f"s_{uuid.uuid4().hex[:12]}")


class PineconeSubject(suite.Subject):
    """The client against our own fake of the protocol, with rows that become readable late."""

    leases = False

    def __init__(self, folder: Path, fake: pinecone_fake.Fake) -> None:
        self.folder, self.fake = folder, fake
        self.engine = self.reopen()

    def reopen(self) -> pinecone.PineconeIndex:
        """Another client."""
        return pinecone.PineconeIndex(self.fake.url, environ={"PINECONE_API_KEY": pinecone_fake.KEY}, settle_s=5, sleep=lambda _s: None)

    def tamper(self, name: str) -> None:
        """One word of one text."""
        rows = self.fake.namespaces[name]
        rows[min(rows)]["metadata"]["text"] += " changed"

    def take_down(self) -> None:
        """Answer everything with 503."""
        self.fake.fail = [503] * 1000

    def bring_up(self) -> None:
        """Answer again."""
        self.fake.fail = []


class TestPinecone(suite.IndexSuite):
    """The suite, on Pinecone's protocol; not on Pinecone."""

    @pytest.fixture
    def subject(self, tmp_path: Path) -> Iterator[PineconeSubject]:
        """A fresh fake."""
        with pinecone_fake.running(pinecone_fake.Fake(lag=3)) as fake:
            yield PineconeSubject(tmp_path, fake)

    def repair(self, subject: suite.Subject, name: str) -> None:
        """Building only counts the rows, so a replica that is not whole has to go first."""
        subject.engine.retire(name)
        subject.engine.build(subject.folder / "part")


def test_a_key_is_needed_and_never_shown(tmp_path: Path) -> None:
    """Without one nothing is asked; a wrong one is refused without being named."""
    with pytest.raises(errors.NotAllowed, match="PINECONE_API_KEY"):
        pinecone.PineconeIndex("http://127.0.0.1:1", environ={})
    with pinecone_fake.running(pinecone_fake.Fake()) as fake:
        engine = pinecone.PineconeIndex(fake.url, environ={"PINECONE_API_KEY": "wrong-secret"})
        with pytest.raises(errors.NotAllowed) as refused:
            engine.replicas()
        assert "wrong-secret" not in str(refused.value)


def test_too_many_requests_are_asked_again(tmp_path: Path) -> None:
    """429 and 503 in between change nothing."""
    with pinecone_fake.running(pinecone_fake.Fake()) as fake:
        subject = PineconeSubject(tmp_path, fake)
        suite.make_part(tmp_path / "part", count=5)
        fake.fail = [429, 503, 429]
        assert subject.engine.build(tmp_path / "part").snapshot.rows == 5


# --- LanceDB alone -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("ann", [False, True], ids=["flat", "with an index of the vectors"])
def test_a_flipped_bit_in_any_file_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, ann: bool) -> None:
    """Rows, words, vectors, manifests, and our own notes: each file of the replica, one bit in its middle."""
    monkeypatch.setattr(lancedb, "FLAT_ROWS", 100 if ann else 10_000)
    engine = lancedb.LanceIndex(tmp_path / "index")
    snapshot = suite.make_part(tmp_path / "part", count=300)
    engine.build(tmp_path / "part")
    files = sorted(path for path in (engine.root / snapshot.name).rglob("*") if path.is_file() and path.name != "stamps.json")
    assert len(files) > 8
    for file in files:
        good = file.read_bytes()
        if not good:
            continue
        file.chmod(0o644)
        file.write_bytes(good[: len(good) // 2] + bytes([good[len(good) // 2] ^ 1]) + good[len(good) // 2 + 1 :])
        with pytest.raises(errors.Damaged):
            engine.verify(snapshot.name, deep=True)
        file.write_bytes(good)
        engine.verify(snapshot.name, deep=True)


@pytest.mark.parametrize(("dim", "lost"), [(64, 10), (60, 0)], ids=["4 bits", "8 bits"])
def test_replicas_of_the_same_rows_answer_alike(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, dim: int, lost: int) -> None:
    """As looking at every vector does: with 8 bits exactly; with 4, in vectors without any structure, but for a row in a hundred at the most."""
    monkeypatch.setattr(lancedb, "FLAT_ROWS", 100)
    vectors = suite.make_vectors(3_100, dim=dim)
    known, asked = vectors[:3_000], vectors[3_000:]
    rows = suite.make_rows(len(known))
    index_snapshot.write(rows, known, tmp_path / "part", embedder=suite.EMBEDDER, spec={"metric": "cosine"})
    exact = [{rows[number].id for number in np.argsort(-(known @ question))[:10]} for question in asked]
    for replica in ("one", "two"):
        engine = lancedb.LanceIndex(tmp_path / replica)
        with contextlib.closing(engine.open(engine.build(tmp_path / "part").name)) as reader:
            found = [{hit.row.id for hit in reader.search(question, k=10)} for question in asked]
        assert sum(len(right - got) for right, got in zip(exact, found, strict=True)) <= lost


def test_what_is_missing_or_too_much_is_found(tmp_path: Path) -> None:
    """At first sight already."""
    engine = lancedb.LanceIndex(tmp_path / "index")
    snapshot = suite.make_part(tmp_path / "part")
    engine.build(tmp_path / "part")
    extra = engine.root / snapshot.name / "lance" / "more"
    extra.parent.chmod(0o755)
    extra.write_text("x")
    with pytest.raises(errors.Damaged, match="is unexpected"):
        engine.open(snapshot.name)
    extra.unlink()
    next((engine.root / snapshot.name / "lance").rglob("data/*.lance")).unlink()
    with pytest.raises(errors.Damaged, match="is missing"):
        engine.open(snapshot.name)
    engine.build(tmp_path / "part")
    engine.verify(snapshot.name, deep=True)
    assert list((engine.root / ".damaged").iterdir())


CHILD = """
import sys
from pathlib import Path
from lastgood.index import lancedb
engine = lancedb.LanceIndex(Path(sys.argv[1]))
print("ready", flush=True)
name = engine.build(Path(sys.argv[2])).name
if sys.argv[3] == "retire":
    engine.retire(name)
print("done", flush=True)
"""


def child(index: Path, part: Path, what: str, *, failpoints: str = "") -> subprocess.Popen[str]:
    """A process that builds, or builds and retires."""
    env = {**os.environ, "LASTGOOD_FAILPOINTS": failpoints}
    return subprocess.Popen([sys.executable, "-c", CHILD, str(index), str(part), what], stdout=subprocess.PIPE, text=True, env=env)


@pytest.mark.parametrize(
    ("point", "what", "there"),
    [
        ("index.before_check", "build", False),
        ("index.before_rename", "build", False),
        ("index.after_rename", "build", True),
        ("index.before_retire", "retire", True),
    ],
)
def test_a_kill_between_two_steps_leaves_all_or_nothing(tmp_path: Path, point: str, what: str, there: bool) -> None:
    """And the next build sweeps what was left."""
    snapshot = suite.make_part(tmp_path / "part")
    killed = child(tmp_path / "index", tmp_path / "part", what, failpoints=f"{point}=kill")
    assert killed.wait(60) == -9
    engine = lancedb.LanceIndex(tmp_path / "index")
    assert [one.name for one in engine.replicas()] == ([snapshot.name] if there else [])
    if there:
        engine.verify(snapshot.name, deep=True)
    engine.build(tmp_path / "part")
    engine.verify(snapshot.name, deep=True)
    engine.sweep()
    assert [path for path in (engine.root / ".staging").iterdir() if path.is_dir()] == []


def test_kills_at_any_moment_leave_all_or_nothing(tmp_path: Path, budget: float) -> None:
    """SIGKILL at random moments of building and retiring; with LASTGOOD_TEST_BUDGET=25 more than a hundred of them."""
    import random

    draw = random.Random(7)
    engine = lancedb.LanceIndex(tmp_path / "index")
    snapshot = suite.make_part(tmp_path / "part", count=400)
    for number in range(max(4, round(4 * budget))):
        shutil.rmtree(tmp_path / "index", ignore_errors=True) if number % 2 else None
        running = child(tmp_path / "index", tmp_path / "part", draw.choice(("build", "retire")))
        assert running.stdout is not None
        running.stdout.readline()
        try:
            running.wait(draw.uniform(0.0, 1.2))
        except subprocess.TimeoutExpired:
            running.kill()
        running.wait(30)
        listed = [one.name for one in engine.replicas()]
        assert listed in ([], [snapshot.name])
        for name in listed:
            engine.verify(name, deep=True)
    engine.build(tmp_path / "part")
    engine.verify(snapshot.name, deep=True)


def test_postgres_killed_in_a_build_leaves_nothing(tmp_path: Path, server: postgres.Server, monkeypatch: pytest.MonkeyPatch) -> None:
    """Just before the commit; the next build makes it."""
    subject = PostgresSubject(tmp_path, server, "killed")
    snapshot = suite.make_part(tmp_path / "part")
    subject.engine.replicas()
    real = pgvector.failpoint

    def kill(name: str) -> None:
        real(name)
        if name == "index.before_rename":
            server.kill()

    monkeypatch.setattr(pgvector, "failpoint", kill)
    with pytest.raises(errors.Unavailable):
        subject.engine.build(tmp_path / "part")
    monkeypatch.setattr(pgvector, "failpoint", real)
    server.start()
    assert subject.engine.replicas() == []
    subject.engine.build(tmp_path / "part")
    subject.engine.verify(snapshot.name, deep=True)


def test_the_graph_of_many_rows_is_checked(tmp_path: Path, server: postgres.Server, monkeypatch: pytest.MonkeyPatch) -> None:
    """With an index of the vectors the same is found; without that index it is damaged."""
    monkeypatch.setattr(pgvector, "FLAT_ROWS", 100)
    subject = PostgresSubject(tmp_path, server, "graph")
    snapshot = suite.make_part(tmp_path / "part", count=400)
    subject.engine.build(tmp_path / "part")
    subject.engine.verify(snapshot.name, deep=True)
    reader = subject.engine.open(snapshot.name)
    vectors = suite.make_vectors(400)
    found = [reader.search(vectors[number], k=1)[0].row.id for number in range(20)]
    assert found == [row.id for row in suite.make_rows(20)]
    reader.close()
    with psycopg.connect(server.url("postgres"), autocommit=True) as connection:
        (index,) = connection.execute(
            "SELECT indexrelid::regclass::text FROM pg_index i JOIN pg_class c ON c.oid = i.indexrelid JOIN pg_am a ON a.oid = c.relam "
            "WHERE i.indrelid = to_regclass(%s) AND a.amname = 'hnsw'",
            (f'"graph"."{snapshot.name}"',),
        ).fetchone() or ("",)
        connection.execute(f"DROP INDEX {index}")
    with pytest.raises(errors.Damaged, match="one of its indexes"):
        subject.engine.open(snapshot.name)


def test_a_database_without_letters_is_refused_for_their_languages(tmp_path: Path, server: postgres.Server) -> None:
    """In silence it would find nothing; pieces of words need no locale."""
    import psycopg

    from lastgood.index import words

    url = server.url("postgres")
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute("CREATE DATABASE plain TEMPLATE template0 LOCALE_PROVIDER libc LOCALE 'C'")
    plain = psycopg.conninfo.make_conninfo(url, dbname="plain")
    rows = [index_snapshot.Row(id="a", text="Договор подписан")]
    for way, fits in (("russian", False), ("ngram", True)):
        index_snapshot.write(rows, suite.make_vectors(1), tmp_path / way, embedder=suite.EMBEDDER, spec={words.KEY: way})
        engine = pgvector.PgvectorIndex(plain)
        if not fits:
            with pytest.raises(errors.UsageError, match=r"C\.UTF-8.*ngram"):
                engine.build(tmp_path / way)
            continue
        reader = engine.open(engine.build(tmp_path / way).name)
        assert reader.search_text("договор", k=1)
        reader.close()
