"""Judged collections: both layouts are read as they are meant, and what is measured on them is what was found. Nothing here is timed."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from bench import index_judged, judged, measure, table
from lastgood import errors
from lastgood.index import base, snapshot


def _beir(folder: Path, *, documents: dict[str, str], queries: dict[str, str], qrels: str, at: str = "qrels.tsv") -> Path:
    (folder / at).parent.mkdir(parents=True, exist_ok=True)
    for name, texts in (("corpus", documents), ("queries", queries)):
        lines = [json.dumps({"_id": key, "title": "", "text": text}) for key, text in texts.items()]
        (folder / f"{name}.jsonl").write_text("\n".join(lines) + "\n")
    (folder / at).write_text("query-id\tcorpus-id\tscore\n" + qrels)
    return folder


@pytest.mark.parametrize("at", ["qrels.tsv", "qrels/test.tsv"])
def test_a_collection_in_the_layout_of_beir_is_read(tmp_path: Path, at: str) -> None:
    """Grade 0 is no answer; an empty document, one that is not there and a query that nobody judged are left out."""
    documents = {"a": "one", "b": "two\u2028lines", "c": " "}
    _beir(
        tmp_path / "x",
        documents=documents,
        queries={"1": "first", "2": "second", "3": "third"},
        qrels="1\ta\t2\n1\tb\t0\n1\tc\t1\n2\tb\t1\n3\tz\t1\n",
        at=at,
    )
    (found,) = judged.read_all(tmp_path)
    assert found == judged.Collection(
        name="x",
        documents={"a": "one", "b": "two\u2028lines"},
        queries={"1": "first", "2": "second"},
        relevant={"1": frozenset("a"), "2": frozenset("b")},
    )


DOCUMENTS = """.I 1
.T
a wing .
.A
somebody
.W
a wing .
in a stream .
.I 2
.T
a shell
.X
5 6 7
.W
buckles
.I 3
.T
.W
"""
QUERIES = ".I 001\n.W\nwhat of wings\n.I 004\n.W\nwhat of shells\n.N\nnot asked\n"


@pytest.mark.parametrize(
    "judgements",
    [
        "1 1 2\n1 2 -1\n2 2 4\n2 3 1\n",
        "1 0 1 1\n2 0 2 1\n",
        "     1      1\t0\t0.000000\n     2      2\t0\t0.000000\n",
        "01 0001  0 0\n02 0002  0 0\n",
    ],
    ids=["cranfield", "med", "cisi", "cacm"],
)
def test_a_collection_in_the_form_of_cranfield_is_read(tmp_path: Path, judgements: str) -> None:
    """Title and text and nothing else, a title once; queries are counted, ids are numbers; each collection writes its judgements otherwise."""
    (tmp_path / "cran").mkdir()
    for name, text in (("c.ALL", DOCUMENTS), ("c.qry", QUERIES), ("c.rel", judgements)):
        (tmp_path / "cran" / name).write_bytes(text.replace("\n", "\r\n").encode())
    (found,) = judged.read_all(tmp_path)
    assert found.documents == {"1": "a wing .\nin a stream .", "2": "a shell\nbuckles"}
    assert found.queries == {"1": "what of wings", "2": "what of shells"}
    assert found.relevant == {"1": frozenset("1"), "2": frozenset("2")}


def test_a_folder_without_collections_is_told_with_the_remedy(tmp_path: Path) -> None:
    """None named, none there, nothing in it; a run then measures nothing, and says why."""
    (tmp_path / "other").mkdir()
    for folder in (None, tmp_path / "gone", tmp_path):
        with pytest.raises(errors.NotFound, match=r"--collections.*corpus\.jsonl"):
            judged.read_all(folder)
        (one,) = index_judged.run(quick=True, collections=folder)
        assert [(row.ours, "give --collections" in row.note) for row in one.rows] == [(None, True)]


@pytest.mark.parametrize("qrels", ["1\ta\n", "1\ta\tx\n", "9\ta\t1\n", ""])
def test_a_collection_that_is_not_whole_is_damaged(tmp_path: Path, qrels: str) -> None:
    """It is named; a figure of half a collection would be none."""
    _beir(tmp_path / "x", documents={"a": "one"}, queries={"1": "first"}, qrels=qrels)
    with pytest.raises(errors.Damaged, match=r"x'.*--collections"):
        judged.read_all(tmp_path)


def test_what_is_found_by_words_alone_is_measured_so(tmp_path: Path) -> None:
    """Of documents with names that no embedder knows, words find the one that is asked for: their figures are 1."""
    names = ("zqxv", "wkjq", "vvzx", "qqjw")
    documents = {name: f"the part {name} of the machine" for name in names}
    _beir(tmp_path / "x", documents=documents, queries={name: name for name in names}, qrels="".join(f"{n}\t{n}\t1\n" for n in names))
    ndcg, recall, mrr = index_judged.run(quick=True, collections=tmp_path)
    assert [one.title.rpartition(", ")[2] for one in (ndcg, recall, mrr)] == ["nDCG@10", "recall@10", "MRR@10"]
    golden, mine, mean = ndcg.rows
    assert mine.what == "wordllama, x"
    assert (mine.ours, mine.peers["words"]) == (1.0, 1.0)
    assert mean.peers == mine.peers
    assert 0.4 < golden.peers["words"] < 0.7
    assert "x: 4 documents, 4 queries" in ndcg.notes[0]


def _hits(*ids: str) -> list[base.Hit]:
    return [base.Hit(row=snapshot.Row(id=name, text=name), score=1 / place) for place, name in enumerate(ids, start=1)]


def test_the_ways_differ_in_what_they_fuse() -> None:
    """Of ten, a document at place eleven of one search is unknown; of fifty, it is found; weights lean to one side."""
    meaning, said = _hits(*"abcdefghijx"), _hits(*"xlmnopqrst")
    found = {way: [hit.row.id for hit in fused(meaning, said)] for way, fused in index_judged.WAYS.items()}
    assert found["meaning"] == list("abcdefghij")
    assert found["words"] == list("xlmnopqrst")
    assert found["rank, of 10"][0] == "a"
    assert found["rank, of 50"][0] == "x"
    assert found["score, words .3"][0] == "a"
    assert found["score, words .7"][0] == "x"


def test_an_interval_holds_the_mean_and_shrinks_with_more_values() -> None:
    """And is the same whenever it is asked for; groups count alike, however long."""
    few, many = measure.interval([0.0, 1.0] * 5), measure.interval([0.0, 1.0] * 500)
    assert few[0] < many[0] < 0.5 < many[1] < few[1]
    assert measure.interval([0.0, 1.0] * 5) == few
    low, high = measure.interval([0.0] * 1000, [1.0])
    assert low == high == 0.5


def test_a_table_without_ratios_has_one_column_for_each_peer() -> None:
    """Where peers are other ways of ours, a ratio says nothing."""
    rows = [table.Row(what="x", unit="nDCG", ours=0.5, peers={"other": 0.25}, note="n")]
    made = table.Table(title="T", rows=rows, ratios=False)
    assert table.markdown(made).splitlines()[2:] == [
        "| figure | unit | lastgood | other | note |",
        "| --- | --- | ---: | ---: | ---: |",
        "| x | nDCG | 0.5 | 0.25 | n |",
    ]
