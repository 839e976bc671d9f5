"""The corpus of helpdesk: documents as they are, chunks that are prose, questions whose answer is known."""

from __future__ import annotations

import io
import json
import tarfile
from pathlib import Path

import pytest

from lastgood import errors
from services.helpdesk import build, chunks, evaluate, prepare, questions, sources
from tests.services import samples

SLICES = samples.PROJECT / prepare.SLICES

DOCUMENT = """\
.. _label:

=============
The big title
=============

.. index:: noise

Opening words with a :doc:`link </x>` and :class:`~django.db.models.Model`.

How do I do this?
=================

.. versionadded:: 5.0

    Something new.

First paragraph of ``code`` and `a reference`_.

.. code-block:: python

    x = 1

* :setting:`DEBUG`
* second

Same heading
------------

One.

Same heading
------------

.. method:: Model.save(force=False)

Two.

Empty one
---------
"""


def cut(text: str = DOCUMENT) -> list[chunks.Section]:
    """The sections of one document."""
    return chunks.sections({"a/b.txt": text})


def test_a_document_is_cut_at_its_headings() -> None:
    """Each section has its place, its headings and its words; one that says nothing is none."""
    found = cut()
    assert [(one.id, one.title, one.heading) for one in found] == [
        ("a/b.txt#the-big-title", "The big title", "The big title"),
        ("a/b.txt#how-do-i-do-this", "The big title", "How do I do this?"),
        ("a/b.txt#same-heading", "The big title", "Same heading"),
        ("a/b.txt#same-heading-2", "The big title", "Same heading"),
    ]
    assert found[0].paragraphs == ("Opening words with a link and Model.",)
    assert found[1].paragraphs == (
        "New in 5.0:", "    Something new.", "First paragraph of `code` and a reference.", "    x = 1", "* DEBUG\n* second",
    )  # fmt: skip
    assert found[3].paragraphs == ("Model.save(force=False)", "Two.")


def test_what_comes_before_the_first_heading_and_after_none_is_kept() -> None:
    """A text without headings is one section, named by its path."""
    (one,) = cut("Just words.\n\nMore.\n")
    assert (one.id, one.title, one.paragraphs) == ("a/b.txt#top", "a/b.txt", ("Just words.", "More."))
    assert cut("") == []


def test_a_long_section_is_cut_at_its_paragraphs() -> None:
    """No chunk is longer than the limit, none is empty, and nothing is lost; the heading stands on each."""
    text = "Title\n=====\n\n" + "\n\n".join(f"Paragraph {number} " + "word " * 60 for number in range(20)) + "\n\n" + "x" * 5000 + "\n"
    (section,) = cut(text)
    made = chunks.chunk(section, withheld=False)
    assert len(made) > 5
    assert all(len(one.text) <= chunks.MAX_CHARS and one.text.startswith("Title\n\n") for one in made)
    assert [one.id for one in made[:2]] == ["a/b.txt#title", "a/b.txt#title~2"]
    words = "".join("".join(one.text.removeprefix("Title\n\n").split()) for one in made)
    assert words == "".join(text.removeprefix("Title\n=====\n\n").split())


def test_a_heading_that_is_asked_is_withheld() -> None:
    """Else the answer to the question would be the question."""
    section = cut()[1]
    assert "How do I do this?" in chunks.chunk(section, withheld=False)[0].text
    assert "How do I do this?" not in chunks.chunk(section, withheld=True)[0].text


@pytest.mark.parametrize("version", ["4.2", "5.2", "6.0"])
def test_the_real_documentation_makes_a_corpus(tmp_path: Path, version: str) -> None:
    """Enough of everything, ids that are unique, answers that are there, headings that were withheld, and the same bytes again."""
    described = prepare.slice_of(version, out=tmp_path / "one", project=samples.PROJECT)
    prepare.build(SLICES / f"django-{version}", tmp_path / "two", version=version)
    for name in (prepare.CHUNKS, prepare.QUESTIONS, prepare.CORPUS):
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes()
    rows = build.read_rows(tmp_path / "one" / prepare.CHUNKS)
    asked = evaluate.read_questions(tmp_path / "one" / prepare.QUESTIONS)
    assert described["chunks"] == len(rows) == len({row.id for row in rows}) > 1500
    assert [row.id for row in rows] == sorted(row.id for row in rows)
    text = {row.id: row.text for row in rows}
    assert described["questions"]["golden"] >= 50
    assert described["questions"]["title"] >= 70
    for one in asked:
        assert bool(one["answers"]) == (one["kind"] != "unanswerable")
        assert all(one["question"] not in text[name].split("\n\n")[0] for name in one["answers"])
    assert not any(".. " in line[:3] for row in rows for line in row.text.splitlines()[:1])
    assert json.loads((tmp_path / "one" / prepare.CORPUS).read_text())["licence"] == "BSD-3-Clause"


def test_a_section_keeps_its_part_in_every_version(tmp_path: Path) -> None:
    """Most questions of one version are asked in the next one too."""
    asked = []
    for version in ("5.2", "6.0"):
        documents = sources.read(SLICES / f"django-{version}")
        asked.append({one.question for one in questions.choose(chunks.sections(documents)) if one.kind != "unanswerable"})
    assert len(asked[0] & asked[1]) > 0.85 * len(asked[0])


def test_questions_that_nothing_answers_are_many_and_are_no_duplicates() -> None:
    """Forty, one a line."""
    found = questions.unanswerable()
    assert len(found) == len(set(found)) == 40


# --- bad input -----------------------------------------------------------------------------------------------


def archive(file: Path, members: dict[str, bytes]) -> Path:
    """A `.tar.gz` with these members."""
    with tarfile.open(file, "w:gz") as made:
        for name, data in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            made.addfile(info, io.BytesIO(data))
    return file


def test_an_archive_is_read_as_it_was_published(tmp_path: Path) -> None:
    """The documents below docs, and nothing else; the digest is checked."""
    file = archive(tmp_path / "x.tar.gz", {"x-1/docs/faq/a.txt": b"Words.", "x-1/docs/conf.py": b"no", "x-1/other/b.txt": b"no"})
    assert sources.read(file) == {"faq/a.txt": "Words."}
    with pytest.raises(errors.Damaged, match="get the published archive again"):
        sources.read(file, sha256="0" * 64)
    file.write_bytes(file.read_bytes()[:60])
    with pytest.raises(errors.Damaged, match="no whole"):
        sources.read(file)


def test_hostile_names_are_refused(tmp_path: Path) -> None:
    """Nothing is ever written by the names in an archive, and none is taken over."""
    with pytest.raises(errors.NotAllowed):
        sources.read(archive(tmp_path / "x.tar.gz", {"x/docs/../../etc/a.txt": b"x"}))


def test_documents_that_cannot_be_read_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not there, none, not UTF-8 (with the byte), too long."""
    with pytest.raises(errors.NotFound, match="corpus/README"):
        sources.read(tmp_path / "no")
    with pytest.raises(errors.UsageError, match=r"no \.txt document"):
        sources.read(tmp_path)
    (tmp_path / "bad.txt").write_bytes(b"abc\xff")
    with pytest.raises(errors.UsageError, match=r"'bad\.txt' is not UTF-8 at byte 3"):
        sources.read(tmp_path)
    (tmp_path / "bad.txt").write_text("x" * 100)
    monkeypatch.setattr(sources, "MAX_BYTES", 99)
    with pytest.raises(errors.UsageError, match="100 bytes, more than 99"):
        sources.read(tmp_path)
    with pytest.raises(errors.NotFound, match=r"there is 4\.2, 5\.2, 6\.0"):
        prepare.slice_of("9.9", out=tmp_path / "out", project=samples.PROJECT)
