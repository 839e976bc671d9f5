"""How a snapshot is searched for words: what it may say, what older ones mean, and that silence is noticed."""

from __future__ import annotations

from pathlib import Path

import pytest

from lastgood import errors
from lastgood.conformance import index as engines
from lastgood.index import lancedb, snapshot, words


@pytest.mark.parametrize("way", ["klingon", "English", "", None, 3, True])
def test_a_way_that_there_is_not_is_refused_when_it_is_written(tmp_path: Path, way: object) -> None:
    """With those that there are."""
    with pytest.raises(errors.UsageError, match=r"'ngram'.*german"):
        snapshot.write(engines.make_rows(2), engines.make_vectors(2), tmp_path / "p", embedder=engines.EMBEDDER, spec={words.KEY: way})


@pytest.mark.parametrize("spec", [{}, {"metric": "cosine"}, {words.KEY: "english"}, {words.KEY: "an older word"}])
def test_older_snapshots_mean_what_they_meant(tmp_path: Path, spec: dict[str, str]) -> None:
    """English; and what they say, so their id, is not touched."""
    assert words.of_spec(spec) == "english"
    made = snapshot.Snapshot(rows=1, rows_digest="sha256:" + "0" * 64, dim=2, embedder="sha256:" + "1" * 64, spec=spec)
    assert made.to_json()["spec"] == spec


def test_pieces_are_of_two_letters_within_a_word() -> None:
    """In any writing, each once."""
    assert words.grams("東京都、京都 a AB abab!") == ["東京", "京都", "a", "ab", "ba"]
    assert words.grams("'; -- \\ |") == []


def _share(folder: Path, way: str) -> float:
    texts = ("東京都の天気は晴れです", "数据库的迁移改变了表格", "한국어로 쓴 설명서입니다")
    rows = [snapshot.Row(id=str(number), text=text) for number, text in enumerate(texts)]
    snapshot.write(rows, engines.make_vectors(3), folder / "p", embedder=engines.EMBEDDER, spec={words.KEY: way})
    index = lancedb.LanceIndex(folder / "i")
    reader = index.open(index.build(folder / "p").name)
    try:
        search = (lambda text: reader.search_text(text, k=3)) if reader.text_search else (lambda _: [])
        return words.check_finds(["天気", "迁移", "설명서"], search, way=way)
    finally:
        reader.close()


def test_words_that_find_nothing_are_noticed(tmp_path: Path) -> None:
    """English finds nothing in Chinese, Japanese or Korean, and says so; pieces find all; who wants no words is not bothered."""
    with pytest.raises(errors.NotAllowed, match=r"0% of 3 questions.*english.*'ngram'"):
        _share(tmp_path / "a", "english")
    assert _share(tmp_path / "b", "ngram") == 1.0
    assert _share(tmp_path / "c", "none") == 1.0
    assert words.check_finds([], lambda _: [], way="english") == 1.0
