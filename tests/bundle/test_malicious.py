"""Files made to run code when loaded are refused by their content, under every suffix, before anything runs."""

from __future__ import annotations

import bz2
import functools
import gzip
import io
import json
import lzma
import os
import pickle
import random
import re
import struct
import zipfile
import zlib
from pathlib import Path

import joblib
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lastgood import errors
from lastgood.bundle import formats
from lastgood.bundle import store as bundle_store


class Evil:
    """Makes a folder when unpickled, which shows that its code ran."""

    def __init__(self, canary):
        self.canary = str(canary)

    def __reduce__(self):
        return os.mkdir, (self.canary,)


def zipped(members, method=zipfile.ZIP_DEFLATED):
    """A zip of (name, bytes) pairs, repeats included."""
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", method) as archive:
        for name, data in members:
            archive.writestr(name, data)
    return out.getvalue()


def saved(array):
    """The bytes of np.save with pickling allowed."""
    out = io.BytesIO()
    np.save(out, array, allow_pickle=True)
    return out.getvalue()


def corpus(canary):
    """Name and bytes of every hostile file; each makes *canary* when its usual loader gets it."""
    evil, path = Evil(canary), str(canary)
    hand = {
        "inst": b"(S'%b'\nios\nmkdir\n." % path.encode(),
        "obj": b"(cos\nmkdir\nS'%b'\no." % path.encode(),
        "no-stop": b"cos\nmkdir\n(S'%b'\ntR" % path.encode(),
        "memo": b"\x80\x04\x8c\x02os\x94\x8c\x05mkdir\x94\x93\x8c" + bytes([len(path)]) + path.encode() + b"\x85R.",
        "padded": b"\x80\x02" + b"N0" * 50_000 + pickle.dumps(evil, 2)[2:],
        "padded-0": b"N0" * 50_000 + pickle.dumps(evil, 0),
        "later": pickle.dumps([1, {"a": list(range(1000))}, evil], 0),
        "nested-call": pickle.dumps(functools.partial(os.mkdir, path)),
        "hex": b"I0x10\n0I 7\n0S'\xff'\n0" + pickle.dumps(evil, 0),
        "get": b"\x80\x04\x8c\x02os\x940\x8c\x05mkdir\x940h\x00h\x01\x93\x8c" + bytes([len(path)]) + path.encode() + b"\x85R.",
        "tail": pickle.dumps(evil) + b"PAR1",
    }
    found = {f"protocol-{n}": pickle.dumps(evil, n) for n in range(6)} | {f"hand-{n}": d for n, d in hand.items()}
    plain = pickle.dumps([evil, np.zeros(100)])
    packers = {"gz": gzip.compress, "zlib": zlib.compress, "bz2": bz2.compress, "xz": lzma.compress}
    found |= {f"packed-{n}": pack(plain) for n, pack in packers.items()}
    found["packed-lzma"] = lzma.compress(plain, lzma.FORMAT_ALONE)
    for level in (0, 3, ("gzip", 3), ("bz2", 3), ("xz", 3), ("lzma", 3)):
        out = io.BytesIO()
        joblib.dump({"model": evil, "weights": np.arange(5000.0)}, out, compress=level)
        found[f"joblib-{level}"] = out.getvalue()
    found["torch"] = zipped([("archive/data.pkl", plain), ("archive/data/0", bytes(64))], zipfile.ZIP_STORED)
    found["torch-renamed"] = zipped([("archive/data/0", bytes(64)), ("archive/weights.bin", plain)])
    found["torch-in-zip"] = zipped([("model.bin", found["torch-renamed"])])
    found["zip-in-zip-in-zip-in-zip"] = zipped([("a", zipped([("b", zipped([("c", zipped([("d", plain)]))]))]))])
    found["zip-behind-pickle"] = plain + zipped([("schema.json", b"{}")])
    found["zip-behind-text"] = b"hello\n" + zipped([("archive/weights.bin", plain)])
    found["npy"] = saved(np.array([evil, None], dtype=object))
    found["npy-field"] = saved(np.array([(1, evil)], dtype=[("a", "i4"), ("b", "O")]))
    found["npz"] = zipped([("a.npy", saved(np.zeros(3))), ("b.npy", found["npy"])])
    found["skops-npy"] = zipped([("schema.json", b"{}"), ("1.npy", found["npy"])])
    found["skops-bin"] = zipped([("schema.json", b"{}"), ("1.bin", plain)])
    return found


SUFFIXES = ["", ".bin", ".model", ".txt", ".json", ".skops", ".safetensors", ".onnx", ".parquet", ".npy", ".ubj", ".pkl", ".py", ".csv"]


@pytest.fixture(scope="module")
def hostile(tmp_path_factory):
    """The corpus, and the folder that must never appear."""
    canary = tmp_path_factory.mktemp("canary") / "ran"
    return corpus(canary), canary


NAMES = sorted(corpus(Path("x")))


def test_the_corpus_is_armed(hostile, tmp_path):
    """The pickles do run their payload when unpickled, so that the refusals mean something."""
    files, canary = hostile
    assert set(files) == set(NAMES)
    for name in NAMES:
        if name.startswith(("protocol-", "hand-")) and name != "hand-nested-call":
            try:
                pickle.loads(files[name], encoding="latin-1")  # noqa: S301
            except EOFError:
                assert name == "hand-no-stop"
            assert canary.is_dir(), name
            canary.rmdir()


@pytest.mark.parametrize("name", NAMES)
def test_refused_under_every_suffix(name, hostile, tmp_path):
    """No hostile file enters the store, whatever it is called, alone or inside a folder; nothing runs."""
    files, canary = hostile
    store = bundle_store.Store(tmp_path / "store")
    for suffix in SUFFIXES:
        folder = tmp_path / f"folder{suffix}"
        folder.mkdir()
        (folder / f"model{suffix}").write_bytes(files[name])
        (folder / "good.txt").write_text("good")
        for source in (folder / f"model{suffix}", folder):
            with pytest.raises(errors.NotAllowed):
                store.put(source)
        with pytest.raises(errors.NotAllowed):
            store.put_bytes(files[name], name=f"model{suffix}")
    assert list(store.digests()) == []
    assert not canary.exists()


@pytest.mark.parametrize("suffix", sorted(formats.FORBIDDEN))
def test_formats_that_run_code_are_refused_by_name_too(suffix, tmp_path):
    """Their suffixes are refused even with harmless content, also in capitals and inside folders and archives."""
    store = bundle_store.Store(tmp_path / "store")
    for name in (f"model{suffix}", f"model{suffix.upper()}"):
        with pytest.raises(errors.NotAllowed, match="run code"):
            store.put_bytes(b"harmless", name=name)
        with pytest.raises(errors.NotAllowed, match="run code"):
            store.put_bytes(zipped([(name, b"harmless")]), name="a.bin")


def _safetensors(header):
    return struct.pack("<Q", len(header)) + header + bytes(8)


def _bombs():
    zeros = bytes(50 << 20)
    yield "zip-bomb", zipped([("1.npy", zeros), ("schema.json", b"{}")])
    yield "zip-repeat", zipped([("schema.json", b"{}"), ("schema.json", b'{"a": 1}')])
    yield "zip-many", zipped([(f"{n}.npy", b"") for n in range(formats.MAX_FILES + 1)], zipfile.ZIP_STORED)
    lie = bytearray(zipped([("1.npy", bytes(1000)), ("schema.json", b"{}")]))
    at = lie.index(b"PK\x01\x02")
    lie[at + 24 : at + 28] = struct.pack("<I", 0xFFFFFFF0)
    yield "zip-lies-about-size", bytes(lie)
    inner = zipped([("2.npy", b"abc")], zipfile.ZIP_STORED)
    inner = inner[: inner.index(b"PK\x01\x02")]
    two = bytearray(zipped([("1.npy", inner), ("2.npy", b"abc"), ("schema.json", b"{}")], zipfile.ZIP_STORED))
    second = two.index(b"PK\x01\x02", two.index(b"PK\x01\x02") + 4)
    two[second + 42 : second + 46] = struct.pack("<I", 30 + len("1.npy"))  # the second member lies inside the first
    yield "zip-overlap", bytes(two)
    locked = bytearray(zipped([("schema.json", b"{}")]))
    locked[locked.index(b"PK\x01\x02") + 8] |= 1
    yield "zip-locked", bytes(locked)
    yield "zip-cut", zipped([("schema.json", b"{}")])[:-5]
    yield "zip-escape", zipped([("schema.json", b"{}"), ("../../evil.npy", b"")])


@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_archives_that_swell_or_lie(tmp_path):
    """Zip bombs, repeated, overlapping, locked, cut and escaping members are refused from the table alone."""
    store = bundle_store.Store(tmp_path / "store")
    expected = {
        "zip-overlap": "overlaps",
        "zip-bomb": "declares",
        "zip-repeat": "twice",
        "zip-many": "more than",
        "zip-locked": "encrypted",
    }
    for name, data in _bombs():
        with pytest.raises(errors.NotAllowed, match=expected.get(name, "cannot be stored")):
            store.put_bytes(data, name="model.skops")
        assert list(store.digests()) == [], name


NOT_WHAT_THEY_SAY = {
    "a.json": [b"{", b"\xff\xfe", b"[" * 200_000, b"{} {}"],
    "a.txt": [b"\0", b"\xff", b"abc\0", b"caf\xc3"],
    "a.py": [b"\x00\x01"],
    "a.parquet": [b"PAR1", b"PAR1 no end", b"no start PAR1", b"abc"],
    "a.safetensors": [b"abc", _safetensors(b"{"), _safetensors(b"[]"), struct.pack("<Q", 1 << 60) + b"{}"]
    + [
        _safetensors(json.dumps({"w": {"dtype": "F32", "shape": [2], "data_offsets": o}}).encode())
        for o in ([0, 9], [-1, 4], [8, 4], [0], "ab")
    ],
    "a.skops": [b"abc", b"PK\x03\x04", zipped([("a.txt", b"x")]), zipped([("schema.json", b"{}"), ("evil.py", b"x")])],
    "a.npy": [b"abc", b"\x93NUMPY\x01\x00\xff\xff{", b"\x93NUMPY\x01\x00\x06\x00__i__\n", b"\x93NUMPY\x02\x00\xff\xff\xff\xff{}"],
    "a.onnx": [b"abc"],
    "a.arrow": [b"abc"],
}


@pytest.mark.parametrize("name", sorted(NOT_WHAT_THEY_SAY))
def test_a_file_must_be_what_its_suffix_says(name, tmp_path):
    """Content of another format, or of none, is refused and says which file."""
    store = bundle_store.Store(tmp_path / "store")
    for data in NOT_WHAT_THEY_SAY[name]:
        with pytest.raises(errors.NotAllowed, match=name):
            store.put_bytes(data, name=name)


def _harmless():
    import pyarrow as pa
    import pyarrow.parquet as pq

    sink = io.BytesIO()
    pq.write_table(pa.table({"carrier": ["UA", "AA"], "late": [0, 1]}), sink)
    yield "a.parquet", sink.getvalue()
    sink = io.BytesIO()
    with pa.ipc.new_file(sink, pa.schema([("a", pa.int64())])) as writer:
        writer.write(pa.record_batch([pa.array([1])], names=["a"]))
    yield "a.arrow", sink.getvalue()
    header = json.dumps({"w": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}}).encode()
    yield "a.safetensors", _safetensors(header)
    yield "b.safetensors", _safetensors(header.ljust(0x0480))  # begins with the very bytes of pickle protocol 4
    yield "a.npy", saved(np.zeros((2, 3)))
    yield "b.npy", saved(np.array([(1, 2.0)], dtype=[("Output", "i4"), ("Odd", "f8")]))
    yield "a.onnx", b"\x08\x08\x12\x07pytorch:\x00"
    yield "a.json", b'{"a": [1, 2.5, null]}'
    yield "a.yaml", "service: flights\n# caf\u00e9\n".encode()
    for text in (
        b"carrier\nUA\nAA\n",
        b"config\nversion\n1\n",
        b"id\nx\n",
        b"(see below)\nNone.\n",
        b"c\n.\n",
        b"Ross\n",
        b"]",
        b".",
        b"I1\n.",
    ):
        yield "a.csv", text
    yield "a.jsonl", b'{"a": 1}\n{"a": 2}\n'
    yield "a.bin", bytes(5000)
    yield "a", gzip.compress(b"carrier,late\nUA,1\n" * 100)
    yield "a.zip", zipped([("a.csv", b"a,b\n"), ("deep/b.npy", saved(np.zeros(3)))])


def test_harmless_files_are_taken(tmp_path):
    """Real files of every allowed format, and text that happens to look like opcodes, go in and come out."""
    store = bundle_store.Store(tmp_path / "store")
    for name, data in _harmless():
        stored = store.put_bytes(data, name=name)
        assert store.path(stored.digest).read_bytes() == data, name


def _texts(rng):
    """Plain files of many kinds, all harmless: word lists, tables, JSON, source, numbers as text and as bytes, no two alike."""
    words = list(re.findall(r"[A-Za-z]{2,12}", " ".join(str(module.__doc__) for module in (pickle, os, zipfile, re))))
    words += ["cat", "dog", "bird", "cow", "box", "cos", "system", "cast", "Rat", "Ira", "Kim", "bat", "builtins", "ceval", "cbuiltins"]
    for _ in range(3000):
        some = [rng.choice(words) for _ in range(rng.randint(1, 12))]
        yield "\n".join(some).encode() + b"\n"
        yield "\n".join(word.title() for word in some).encode()
        yield ("\n".join(f"{one},{rng.random()},({n}" for n, one in enumerate(some)) + "\n").encode()
        yield json.dumps({one: [rng.random(), one] for one in some}).encode()
        yield " ".join(some).encode() + b".\n"
        yield np.array([rng.gauss(0, 1) for _ in some], dtype=rng.choice(["<f4", "<f8", ">f8"])).tobytes()
        yield "\n".join(str(rng.randint(-9, 9)) for _ in some).encode() + b"\n"
    for module in (pickle, os, zipfile, re, json, random):
        lines = Path(module.__file__).read_bytes().splitlines(keepends=True)
        for first in range(0, len(lines), 7):
            yield b"".join(lines[first : first + 60]).lstrip()


def test_words_and_numbers_are_not_mistaken_for_pickles():
    """A quarter of random lists of five words were: `c`, `b` and others that words begin with are opcodes."""
    rng = random.Random(2)
    wrong = [data for data in _texts(rng) if formats.is_pickle(io.BytesIO(data))]
    assert wrong == []
    assert not formats.is_pickle(io.BytesIO(b"cat\ndog\nbird\n"))


@settings(max_examples=200, deadline=None)
@given(
    payload=st.recursive(
        st.none() | st.integers() | st.text(max_size=5) | st.floats(),
        lambda inner: st.lists(inner, max_size=3) | st.tuples(inner),
        max_leaves=5,
    ),
    protocol=st.integers(0, 5),
    depth=st.integers(0, 4),
    tail=st.sampled_from([b"", b"\n", b"PAR1", b"a\nb\n"]),
)
def test_every_pickle_that_calls_something_is_found(payload, protocol, depth, tail):
    """Whatever stands around the call, in every protocol, with or without the end: an unpickler has called it by then."""
    evil: object = (payload, functools.partial(os.mkdir, "x"))
    for number in range(depth):
        evil = [[evil, payload], {"k": evil, 1: payload}, (payload, evil), {"k": [evil]}][number % 4]
    data = pickle.dumps(evil, protocol)
    assert formats.is_pickle(io.BytesIO(data + tail))
    end = data.rindex(b".")
    assert formats.is_pickle(io.BytesIO(data[:end] + b"\xff")), "without its end it has run all the same"


def test_random_binaries_are_not_mistaken_for_pickles():
    """Of random kilobytes that begin like a pickle under 2 % are refused, so of random files two in a million."""
    rng = random.Random(1)
    wrong = sum(formats.is_pickle(io.BytesIO(b"\x80" + bytes([n % 6]) + rng.randbytes(1000))) for n in range(5_000))
    assert wrong < 100
    assert not any(formats.is_pickle(io.BytesIO(rng.randbytes(300))) for _ in range(20_000))


@settings(max_examples=400, deadline=None)
@given(
    st.binary(max_size=400),
    st.sampled_from(SUFFIXES),
    st.sampled_from([b"", b"\x80\x04", b"PK\x03\x04", b"\x93NUMPY\x01\x00", b"\x1f\x8b", b"BZh"]),
)
def test_any_bytes_are_taken_or_refused(data, suffix, start):
    """No bytes make the checks fail in another way than NotAllowed."""
    try:
        formats.check_content(io.BytesIO(start + data), name=f"a{suffix}")
    except errors.NotAllowed:
        return


def test_links_devices_and_pipes(tmp_path):
    """Links (to files, folders, nothing), pipes, sockets and devices are refused, alone and inside folders, without waiting."""
    import socket

    store = bundle_store.Store(tmp_path / "store")
    (tmp_path / "secret.txt").write_text("secret")
    (tmp_path / "real").mkdir()
    (tmp_path / "real" / "a.txt").write_text("x")
    makers = {
        "link.txt": lambda p: p.symlink_to(tmp_path / "secret.txt"),
        "folder": lambda p: p.symlink_to(tmp_path / "real"),
        "dangling.txt": lambda p: p.symlink_to("nowhere"),
        "self.txt": lambda p: p.symlink_to(p),
        "pipe.txt": os.mkfifo,
        "zero.txt": lambda p: p.symlink_to("/dev/zero"),
        "socket.txt": lambda p: socket.socket(socket.AF_UNIX).bind(os.path.relpath(p)),
    }
    for name, make in makers.items():
        folder = tmp_path / f"with-{name}"
        folder.mkdir()
        (folder / "good.txt").write_text("x")
        make(folder / name)
        for source in (folder, folder / name):
            for ask in (store.put, store.check):
                with pytest.raises(errors.NotAllowed):
                    ask(source)
    assert list(store.digests()) == []
    with pytest.raises(errors.NotAllowed):
        bundle_store.digest_file(tmp_path / "with-link.txt" / "link.txt")
