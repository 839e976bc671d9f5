"""Documents in reStructuredText, cut into chunks that fit into a prompt: a section each, long ones at the ends of paragraphs.

A small reader of lines and no parser: what is searched are words, and a directive it does not know stays as text.

What does not belong here: which sections become questions (`questions`).
"""

from __future__ import annotations

import dataclasses
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence

MAX_CHARS = 1600

_UNDERLINE = re.compile(r"([=\-~^\"'`#*+:.])\1{2,}\s*$")
_NOISE = re.compile(r"\.\. (_[^:]+:|index::|module::|currentmodule::|highlight::|only::|toctree::|contents::|rst-class::|seealso::$)|\.\.$")
_BLOCK = re.compile(r"\.\. (code-block|console|sourcecode|note|warning|admonition|tip|important)::\s*")
_SIGNATURE = re.compile(
    r"\.\. (?:[a-z]+:)?(class|method|function|attribute|data|exception|classmethod|staticmethod|setting|django-admin|templatetag|templatefilter|fieldlookup)::\s*"
)
_VERSION = re.compile(r"\.\. version(added|changed)::\s*")
_ROLE = re.compile(r":[a-zA-Z][\w:+.-]*:`([^`]*)`")
_LINK = re.compile(r"`([^`<]+?)\s*<[^`>]*>`_{1,2}")
_REFERENCE = re.compile(r"`([^`]+)`_{1,2}(?!\w)|(?<![\w`])([A-Za-z][A-Za-z0-9]*)_(?![\w`])")


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Section:
    """A heading and what stands under it up to the next one. `id` is the path and the heading, made unique within the document."""

    id: str
    path: str
    title: str
    heading: str
    paragraphs: tuple[str, ...]


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Chunk:
    """A section or a part of one."""

    id: str
    text: str
    section: Section
    part: int

    def to_json(self) -> dict[str, object]:
        """The row of chunks.jsonl."""
        named = {"path": self.section.path, "title": self.section.title, "heading": self.section.heading, "part": self.part}
        return {"id": self.id, "text": self.text, "meta": named}


def sections(documents: Mapping[str, str]) -> list[Section]:
    """The sections of all documents that say something, in the order of the paths."""
    found = []
    for path, text in sorted(documents.items()):
        seen: Counter[str] = Counter()
        found_in = _split(text.splitlines())
        title = next((heading for heading, _ in found_in if heading), path)
        for heading, lines in found_in:
            paragraphs = tuple(_paragraphs(lines))
            if paragraphs:
                slug = _slug(heading)
                seen[slug] += 1
                name = f"{path}#{slug}" + (f"-{seen[slug]}" if seen[slug] > 1 else "")
                found.append(Section(id=name, path=path, title=title, heading=heading or title, paragraphs=paragraphs))
    return found


def _split(lines: Sequence[str]) -> list[tuple[str, list[str]]]:
    """(heading, lines below it) in order; what stands before the first heading has an empty one."""
    found, body, heading, place = list[tuple[str, list[str]]](), list[str](), "", 0
    while place < len(lines):
        line = lines[place]
        over = place + 2 < len(lines) and _UNDERLINE.match(line) and _is_heading(lines[place + 1].strip(), lines[place + 2])
        if over or (place + 1 < len(lines) and _is_heading(line, lines[place + 1])):
            found.append((heading, body))
            heading, body = plain(lines[place + 1] if over else line).strip(), []
            place += 3 if over else 2
        else:
            body.append(line)
            place += 1
    return [*found, (heading, body)]


def _is_heading(line: str, below: str) -> bool:
    under = _UNDERLINE.match(below)
    return bool(
        under and line.strip() and not line.startswith(" ") and not _UNDERLINE.match(line) and len(below.rstrip()) >= len(line.rstrip())
    )


def _paragraphs(lines: Iterable[str]) -> Iterator[str]:
    block: list[str] = []
    for line in (*_cleaned(lines), ""):
        if line.strip():
            block.append(line)
        elif block:
            yield "\n".join(block)
            block = []


def _cleaned(lines: Iterable[str]) -> Iterator[str]:
    for line in lines:
        bare = line.strip()
        if _NOISE.match(bare) or (bare.startswith(":") and bare.endswith(":")) or bare == "::":
            yield ""
        elif _BLOCK.match(bare):
            yield line[: len(line) - len(line.lstrip())] + _BLOCK.sub("", bare) if "admonition" in bare else ""
        elif _SIGNATURE.match(bare):
            yield _SIGNATURE.sub("", bare)
        elif found := _VERSION.match(bare):
            yield f"{'New' if found[1] == 'added' else 'Changed'} in {_VERSION.sub('', bare)}:"
        else:
            yield plain(line)


def plain(text: str) -> str:
    """*text* without the marks of roles and literals: what a reader sees."""
    text = _ROLE.sub(lambda found: _shown(found[1]), text)
    text = _LINK.sub(lambda found: found[1], text)
    text = _REFERENCE.sub(lambda found: found[1] or found[2], text)
    return text.replace("``", "`").replace("\\ ", "").rstrip()


def _shown(target: str) -> str:
    if "<" in target:
        return target.partition("<")[0].strip() or target
    return target.removeprefix("~").rpartition(".")[2] if target.startswith("~") else target.removeprefix("!")


def chunk(section: Section, *, withheld: bool) -> list[Chunk]:
    """The chunks of *section*, each with its headings on top; *withheld* leaves out the section's own, which is asked for."""
    names = [section.title] if withheld else list(dict.fromkeys((section.title, section.heading)))
    head = " / ".join(names)
    parts = list(_packed(section.paragraphs, room=MAX_CHARS - len(head) - 2))
    ids = [section.id if number == 1 else f"{section.id}~{number}" for number in range(1, len(parts) + 1)]
    return [
        Chunk(id=name, text=f"{head}\n\n{text}", section=section, part=number)
        for number, (name, text) in enumerate(zip(ids, parts, strict=True), 1)
    ]


def _packed(paragraphs: Sequence[str], *, room: int) -> Iterator[str]:
    """*paragraphs* joined as long as they fit into *room* characters; one that does not is cut at a line, then anywhere."""
    held = ""
    for piece in (piece for paragraph in paragraphs for piece in _pieces(paragraph, room=room)):
        if held and len(held) + 2 + len(piece) > room:
            yield held
            held = piece
        else:
            held = f"{held}\n\n{piece}" if held else piece
    if held:
        yield held


def _pieces(paragraph: str, *, room: int) -> Iterator[str]:
    while len(paragraph) > room:
        cut = paragraph.rfind("\n", 1, room)
        cut = cut if cut > 0 else room
        if paragraph[:cut].strip():
            yield paragraph[:cut]
        paragraph = paragraph[cut:].lstrip("\n")
    if paragraph.strip():
        yield paragraph


def _slug(heading: str) -> str:
    return re.sub(r"[^a-z0-9]+", "-", heading.lower()).strip("-")[:80] or "top"
