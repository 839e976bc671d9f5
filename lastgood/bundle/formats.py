"""What may be stored, judged by content: no names that escape, no links, no bytes that run when loaded.

Scanners for *bad* pickles are bypassed again and again, so none is used: a format that can
carry code is refused as such, and a file must match its suffix. Checks run on our own copy of
the bytes, never on the source, so nothing can be swapped between check and use.

What does not belong here: trust in a publisher (`system.signing`, `archive`), loading skops files (`skops`).
"""

from __future__ import annotations

import ast
import bz2
import codecs
import collections
import io
import json
import lzma
import os
import pickletools
import re
import stat
import zipfile
import zlib
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path, PurePosixPath
from typing import Any, BinaryIO

from lastgood import errors

MODEL_FORMATS = frozenset({".skops", ".safetensors", ".onnx", ".json", ".txt", ".model", ".ubj", ".parquet"})
"""Suffixes of a model part; `.model`, `.ubj` and `.txt` are the native formats of gradient boosting libraries."""
DATA_FORMATS = frozenset({".parquet", ".csv", ".json", ".jsonl", ".arrow", ".npy"})
CONFIG_FORMATS = frozenset({".yaml", ".yml", ".json", ".toml", ".py", ".txt", ".md", ".lock"})

FORBIDDEN = frozenset(
    {".pkl", ".pickle", ".joblib", ".dill", ".cloudpickle", ".pt", ".pth", ".ckpt", ".pyc", ".h5", ".hdf5", ".keras", ".mar"}
)
"""Formats whose loader may run code; refused whatever is inside."""

MAX_FILES = 20_000
MAX_DEPTH = 32
MAX_PATH = 1024
MAX_UNZIPPED = 8 << 30
MAX_RATIO = 200
_MAX_JSON = 64 << 20
_MAX_OPCODES = 20_000
_MAX_SEEK = 1 << 40
_HEAD = 1 << 20

_SEGMENT = re.compile(r"[A-Za-z0-9._=][A-Za-z0-9._ =-]{0,254}")
_TEXT = frozenset({".json", ".jsonl", ".yaml", ".yml", ".toml", ".py", ".txt", ".md", ".lock", ".csv"})
_OPCODES = {op.code.encode("latin-1"): op for op in pickletools.opcodes}
_LAST_PROTOCOL = b"\x07"  # 5 today
_EXTENSIONS = frozenset({"EXT1", "EXT2", "EXT4"})
_CALLS = frozenset({"REDUCE", "OBJ", "NEWOBJ", "NEWOBJ_EX", "BUILD", "INST"})
_PACKERS = frozenset({"MARK", "EMPTY_TUPLE", "EMPTY_LIST", "EMPTY_DICT", "EMPTY_SET", "TUPLE1", "TUPLE2", "TUPLE3"})
"""Opcodes at least one of which is needed to pass a call anything but single characters."""
_SKOPS_MEMBER = re.compile(r"[0-9a-f-]+\.(npy|npz|bin)")
_ZIP_METHODS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA)
_MALFORMED = (
    ValueError,
    KeyError,
    TypeError,
    AttributeError,
    SyntaxError,
    EOFError,
    RecursionError,
    MemoryError,
    NotImplementedError,
    zipfile.BadZipFile,
    zlib.error,
    lzma.LZMAError,
)
_IDENTIFIERS = re.compile(r"[^\W\d][\w.]* [^\W\d][\w.]*")


# --- names -------------------------------------------------------------------------------------


def check_path(path: str) -> str:
    """Return *path* if it is a harmless relative name on every platform. Raises NotAllowed.

    Segments contain ASCII letters, digits, `._ =-`, do not begin with any of ` -`, and do not end with a space or dot.
    """
    segments = path.split("/")
    plain = all(_SEGMENT.fullmatch(s) and not s.endswith((" ", ".")) for s in segments)
    if not plain or len(segments) > MAX_DEPTH or len(path) > MAX_PATH:
        raise errors.NotAllowed(
            f"{path[:200]!r} is not a safe file name; use letters, digits, '.', '_', '-', '=' and spaces inside,"
            f" at most {MAX_DEPTH} folders deep and {MAX_PATH} characters long"
        )
    return path


def check_paths(paths: Iterable[str]) -> None:
    """Check every path, and that they can coexist on a case-insensitive file system. Raises NotAllowed."""
    seen: dict[str, tuple[str, bool]] = {}
    for count, path in enumerate(paths, start=1):
        if count > MAX_FILES:
            raise errors.NotAllowed(f"more than {MAX_FILES} files in one folder part; pack small files together")
        check_path(path)
        segments = path.split("/")
        for depth in range(1, len(segments) + 1):
            name, is_file = "/".join(segments[:depth]), depth == len(segments)
            fresh = name.casefold() not in seen
            known = seen.setdefault(name.casefold(), (name, is_file))
            if known != (name, is_file) or (is_file and not fresh):
                raise errors.NotAllowed(f"{name!r} and {known[0]!r} would be the same file on some file systems; rename one of them")


def walk(root: Path) -> list[str]:
    """Relative paths of all files below *root*, sorted. Raises NotAllowed for links, devices, pipes and hostile names."""
    found: list[str] = []
    pending = [""]
    while pending:
        folder = pending.pop()
        for item in _scan(root / folder, folder):
            name = f"{folder}/{item.name}" if folder else item.name
            if item.is_dir(follow_symlinks=False):
                pending.append(check_path(name))
            elif item.is_file(follow_symlinks=False):
                found.append(check_path(name))
            else:
                raise errors.NotAllowed(f"{str(root / name)!r} is a link, a device or a pipe; store a copy of its content instead")
            if len(found) + len(pending) > MAX_FILES:
                raise errors.NotAllowed(f"{str(root)!r} holds more than {MAX_FILES} files; pack small files together")
    check_paths(found)
    return sorted(found)


def _scan(folder: Path, name: str) -> Iterator[os.DirEntry[str]]:
    if name.count("/") >= MAX_DEPTH:
        raise errors.NotAllowed(f"{str(folder)!r} is more than {MAX_DEPTH} folders deep; flatten it")
    with os.scandir(folder) as items:
        yield from items


def open_regular(path: Path) -> io.BufferedReader:
    """Open a regular file for reading, never through a link, never blocking. Raises NotAllowed or NotFound."""
    try:
        handle = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except FileNotFoundError:
        raise errors.NotFound(f"{str(path)!r} does not exist; check the path") from None
    except OSError as error:
        if path.is_symlink() or not path.is_file():
            raise errors.NotAllowed(
                f"{str(path)!r} is not a regular file ({error.strerror}); store a copy of its content instead"
            ) from error
        raise
    if not stat.S_ISREG(os.fstat(handle).st_mode):
        os.close(handle)
        raise errors.NotAllowed(f"{str(path)!r} is a folder, a device or a pipe; use a regular file")
    return os.fdopen(handle, "rb")


# --- content -----------------------------------------------------------------------------------


def check_suffix(name: str, allow: frozenset[str] | None) -> str:
    """The lower-case suffix of *name*, if it may be stored. Raises NotAllowed."""
    suffix = PurePosixPath(name).suffix.lower()
    if suffix in FORBIDDEN:
        raise errors.NotAllowed(f"{name!r}: {suffix} files may run code when loaded; save the model as .skops, .safetensors or .onnx")
    if allow is not None and suffix not in allow:
        raise errors.NotAllowed(f"{name!r}: suffix {suffix!r} is not allowed in this part; use one of {', '.join(sorted(allow))}")
    return suffix


def check_content(file: BinaryIO, *, name: str) -> None:
    """Refuse (NotAllowed) a file that carries code for an unpickler or does not match the suffix of *name*.

    *file* must be seekable; its position afterwards is undefined. Nothing is loaded, or decompressed without limits.
    """
    try:
        _refuse_code(file)
        check = _BY_SUFFIX.get(PurePosixPath(name).suffix.lower())
        if check is not None:
            file.seek(0)
            check(file)
    except _MALFORMED as error:
        raise errors.NotAllowed(f"{name!r} cannot be stored: {error}; save it again, a model as .skops, .safetensors or .onnx") from error


def _refuse_code(file: BinaryIO, *, depth: int = 0) -> None:
    file.seek(0)
    head = file.read(_HEAD)
    file.seek(0)
    if is_pickle(file) or is_pickle(io.BytesIO(_unwrapped(head))):
        raise ValueError("it is a pickle, which may run code when loaded")
    file.seek(0)
    if head.startswith(b"\x93NUMPY"):
        _check_npy(file)
    elif head.startswith((b"PK\x03\x04", b"PK\x05\x06")) or zipfile.is_zipfile(file):
        if depth > 1:
            raise ValueError("it contains archives nested three deep")
        _check_members(file, depth=depth)


def _check_members(file: BinaryIO, *, depth: int) -> None:
    with zipfile.ZipFile(file) as archive:
        check_zip(archive, size=file.seek(0, os.SEEK_END))
        for info in archive.infolist():
            if PurePosixPath(info.filename).suffix.lower() in FORBIDDEN:
                raise ValueError(f"member {info.filename!r} may run code when loaded")
            with archive.open(info) as stream:
                member = io.BytesIO(stream.read(_HEAD))
                if member.getvalue().startswith(b"PK"):
                    member.write(stream.read(_MAX_JSON))
            _refuse_code(member, depth=depth + 1)


def is_pickle(file: BinaryIO) -> bool:
    """True if an unpickler would import something from *file* and call it, or if it is a pickle by its own opening.

    Walks the opcodes from the start without judging their arguments: protocols 0 and 1 have no magic number, joblib puts raw
    arrays between opcodes, and a scanner that is stricter than the real unpickler about an argument can be blinded by one.
    Content without a protocol mark is usually text or numbers, so there the stack has to support each operation: a call that has its
    arguments, or a walk to the end. Word lists are full of letters that are opcodes, and of empty stacks.
    """
    start = file.read(2)
    file.seek(0)
    marked = start[:1] == b"\x80"
    if marked and start[1:] > _LAST_PROTOCOL:
        return False  # no unpickler reads on
    seen = collections.Counter[str]()
    stack = _Stack()
    for count, (name, argument) in enumerate(_opcodes(file)):
        if not marked and not stack.bears(name):
            return False  # the unpickler ends here, and has called nothing yet
        if name == "GLOBAL" or (name == "INST" and seen["MARK"]):
            seen["import"] += _IDENTIFIERS.fullmatch(argument) is not None
        elif (name in _EXTENSIONS and marked) or (name == "STACK_GLOBAL" and seen["text"] > 1):
            seen["import"] += 1
        seen["call"] += name in _CALLS
        calls = (name in _CALLS - {"BUILD"} and seen.keys() & _PACKERS) or (name == "STOP" and seen["call"])
        if seen["import"] and (marked or calls):
            return True
        if (marked and name == "STOP" and count > 1) or count > _MAX_OPCODES:
            return True
        seen[name] += 1
        seen["text"] += "UNICODE" in name or "STRING" in name or "GET" in name
    return marked and seen.total() > 32


class _Stack:
    """How many objects lie above each mark of an unpickler's stack, the bottom first."""

    def __init__(self) -> None:
        self._above = [0]

    def bears(self, name: str) -> bool:
        """Perform the opcode *name*; False if an unpickler would find too little on the stack for it."""
        if name == "MARK":
            self._above.append(0)
            return True
        needs, marks, leaves = _EFFECTS[name]
        if name == "POP" and not self._above[-1]:
            needs, marks = 0, True  # it takes the mark itself
        if marks and len(self._above) == 1:
            return False
        if marks:
            self._above.pop()
        if self._above[-1] < needs:
            return False
        self._above[-1] += leaves - needs
        return True


def _effect(op: pickletools.OpcodeInfo) -> tuple[int, bool, int]:
    """What an opcode takes from the stack (how much, and whether also everything down to the last mark) and how much it leaves."""
    before = op.stack_before
    marks = pickletools.markobject in before
    return (before.index(pickletools.markobject) if marks else len(before)), marks, len(op.stack_after)


_EFFECTS = {op.name: _effect(op) for op in pickletools.opcodes}


def _opcodes(file: BinaryIO) -> Iterator[tuple[str, str]]:
    """Names of the opcodes before the first byte that is not one, each with its line arguments (joined by a space)."""
    while (opcode := _OPCODES.get(file.read(1))) is not None:
        kind = opcode.arg
        argument = b""
        if kind is not None and kind.n == pickletools.UP_TO_NEWLINE:
            lines = [file.readline(_HEAD) for _ in range(2 if kind.name.endswith("_pair") else 1)]
            if not all(line.endswith(b"\n") for line in lines):
                return
            argument = b" ".join(line[:-1] for line in lines)
        elif kind is not None and kind.n >= 0:
            file.read(kind.n)
        elif kind is not None:
            width = {pickletools.TAKEN_FROM_ARGUMENT1: 1, pickletools.TAKEN_FROM_ARGUMENT8U: 8}.get(kind.n, 4)
            file.seek(min(int.from_bytes(file.read(width), "little"), _MAX_SEEK), os.SEEK_CUR)
        yield opcode.name, argument.decode("utf-8", "replace")
        if opcode.name == "STOP":
            return


def _unwrapped(head: bytes) -> bytes:
    """The first MiB inside a gzip, zlib, bz2, xz or lzma wrapper, which joblib writes; empty if there is none."""
    openers: tuple[Callable[[], Any], ...] = (lambda: zlib.decompressobj(47), bz2.BZ2Decompressor, lzma.LZMADecompressor)
    magics = (b"\x1f\x8b", b"\x78"), (b"BZh",), (b"\xfd7zXZ", b"\x5d\x00\x00")
    for opener, starts in zip(openers, magics, strict=True):
        if head.startswith(starts):
            try:
                return bytes(opener().decompress(head, _HEAD))
            except (zlib.error, OSError, lzma.LZMAError, EOFError):
                return b""
    return b""


def check_zip(archive: zipfile.ZipFile, *, size: int) -> None:
    """Refuse (ValueError) an archive that would explode, hide or repeat members, by its table alone. *size* is the file's, in bytes."""
    infos = archive.infolist()
    if len(infos) > MAX_FILES or len({info.filename for info in infos}) != len(infos):
        raise ValueError(f"the archive lists a member twice or has more than {MAX_FILES}")
    total = sum(info.file_size for info in infos)
    if total > min(MAX_UNZIPPED, MAX_RATIO * size):
        raise ValueError(f"the archive of {size} bytes declares {total} bytes of content")
    end = 0
    for info in sorted(infos, key=lambda i: i.header_offset):
        if info.header_offset < end or info.flag_bits & 0x1 or info.compress_type not in _ZIP_METHODS:
            raise ValueError(f"archive member {info.filename!r} is encrypted, overlaps another or has an unknown compression")
        end = info.header_offset + 30 + info.compress_size
    if end > size:
        raise ValueError("the archive is shorter than its table of contents states")


def _check_npy(file: BinaryIO) -> None:
    magic = file.read(8)
    length = int.from_bytes(file.read(4 if magic[6:7] > b"\x01" else 2), "little")
    if magic[:6] != b"\x93NUMPY" or length > 1 << 16:
        raise ValueError("it is not a NumPy array")
    header = ast.literal_eval(file.read(length).decode("utf-8"))
    if _has_objects(header["descr"]):
        raise ValueError("it is an array of Python objects, which are pickles")


def _has_objects(descr: Any) -> bool:
    if isinstance(descr, str):
        return "O" in descr
    if isinstance(descr, tuple):
        return _has_objects(descr[0])
    return any(_has_objects(field[1]) for field in descr)


def _check_text(file: BinaryIO) -> None:
    decoder = codecs.getincrementaldecoder("utf-8")()
    while chunk := file.read(_HEAD):
        if "\0" in decoder.decode(chunk):
            raise ValueError("it is text with a NUL character")
    decoder.decode(b"", final=True)


def _check_json(file: BinaryIO) -> None:
    data = file.read(_MAX_JSON + 1)
    if len(data) > _MAX_JSON:
        raise ValueError(f"it is more than {_MAX_JSON >> 20} MiB of JSON; use .jsonl or .parquet")
    json.loads(data)


def _check_parquet(file: BinaryIO) -> None:
    head = file.read(4)
    size = file.seek(0, os.SEEK_END)
    file.seek(max(0, size - 4))
    if size < 12 or head != b"PAR1" or file.read(4) != b"PAR1":
        raise ValueError("it is not a complete Parquet file")


def _check_safetensors(file: BinaryIO) -> None:
    length = int.from_bytes(file.read(8), "little")
    if length > 100_000_000:
        raise ValueError("its header is longer than 100 MB")
    header = json.loads(file.read(length))
    body = file.seek(0, os.SEEK_END) - 8 - length
    for key in header.keys() - {"__metadata__"}:
        begin, end = header[key]["data_offsets"]
        if header[key].keys() != {"dtype", "shape", "data_offsets"} or not 0 <= begin <= end <= body:
            raise ValueError(f"tensor {key!r} lies outside the file")


def _check_skops(file: BinaryIO) -> None:
    with zipfile.ZipFile(file) as archive:
        names = archive.namelist()
    strange = [name for name in names if name != "schema.json" and not _SKOPS_MEMBER.fullmatch(name)]
    if "schema.json" not in names or strange:
        raise ValueError(
            f"it is not a skops file: unexpected members {strange[:3]}" if strange else "it is not a skops file: schema.json is missing"
        )


def _check_start(*starts: bytes) -> Callable[[BinaryIO], None]:
    def check(file: BinaryIO) -> None:
        if not file.read(16).startswith(starts):
            raise ValueError("its first bytes do not match its suffix")

    return check


_BY_SUFFIX: dict[str, Callable[[BinaryIO], None]] = {
    **dict.fromkeys(_TEXT, _check_text),
    ".json": _check_json,
    ".parquet": _check_parquet,
    ".safetensors": _check_safetensors,
    ".skops": _check_skops,
    ".npy": _check_npy,
    ".onnx": _check_start(b"\x08"),
    ".arrow": _check_start(b"ARROW1", b"\xff\xff\xff\xff"),
}
