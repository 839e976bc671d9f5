"""skops files load by our list of types only, and the same fitted model has the same bytes."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest

from lastgood import errors
from lastgood.bundle import skops as skops_bytes
from lastgood.bundle import store as bundle_store

TRUSTED = (
    "functools.partial",
    "sklearn.ensemble._hist_gradient_boosting.predictor.TreePredictor",
    "sklearn.utils.validation.check_array",
)

os.environ.setdefault("OMP_NUM_THREADS", "1")  # libgomp spins on a busy machine


def fit(path, salt):
    """Fit one small model; *salt* only moves things in memory."""
    import skops.io
    from sklearn.ensemble import HistGradientBoostingClassifier

    junk = [object() for _ in range(1000 * salt)]
    table = _table()
    labels = (table["a"] + np.random.default_rng(1).normal(size=1000) > 0.5).to_numpy()
    model = HistGradientBoostingClassifier(categorical_features="from_dtype", random_state=0, max_iter=5).fit(table, labels)
    skops.io.dump(model, path)
    np.save(f"{path}.npy", model.predict_proba(table))
    junk.clear()


def _table():
    import pandas as pd

    rng = np.random.default_rng(0)
    return pd.DataFrame({"a": rng.normal(size=1000), "c": pd.Categorical(rng.choice(list("xyz"), 1000))})


@pytest.fixture(scope="module")
def fitted(tmp_path_factory):
    """One model, fitted by two processes with other memory layouts and hash seeds, as skops wrote it."""
    folder = tmp_path_factory.mktemp("models")
    fit(folder / "1.skops", 1)
    code = "import sys; from tests.bundle.test_skops import fit; fit(sys.argv[1], 2)"
    seed = "2" if os.environ.get("PYTHONHASHSEED") != "2" else "3"
    root = Path(__file__).resolve().parents[2]
    subprocess.run([sys.executable, "-c", code, str(folder / "2.skops")], env={**os.environ, "PYTHONHASHSEED": seed}, cwd=root, check=True)
    return folder


@pytest.fixture
def model(fitted, tmp_path):
    """A copy of the first one."""
    path = tmp_path / "model.skops"
    path.write_bytes((fitted / "1.skops").read_bytes())
    return path


def _probabilities(model):
    return model.predict_proba(_table())


def test_loads_with_our_list(model, fitted):
    """A model whose types are all known loads and predicts as it did when it was fitted."""
    loaded = bundle_store.load_skops(model, trusted=TRUSTED)
    assert np.array_equal(_probabilities(loaded), np.load(fitted / "1.skops.npy"))


def test_same_model_same_bytes(fitted, tmp_path):
    """Two dumps by two processes differ, normalised they are equal, and both load to the same predictions."""
    dumps = [(fitted / f"{n}.skops").read_bytes() for n in (1, 2)]
    assert dumps[0] != dumps[1]
    paths = [tmp_path / f"{n}.skops" for n in (1, 2)]
    for path, dump in zip(paths, dumps, strict=True):
        path.write_bytes(dump)
    digests = [bundle_store.normalise_skops(path) for path in paths]
    assert digests[0] == digests[1] == bundle_store.digest_file(paths[0])
    assert paths[0].read_bytes() == paths[1].read_bytes()
    for path in paths:
        assert np.array_equal(_probabilities(bundle_store.load_skops(path, trusted=TRUSTED)), np.load(fitted / "1.skops.npy"))
    assert bundle_store.normalise_skops(paths[0]) == digests[0]


def test_other_model_other_bytes(fitted, tmp_path):
    """One changed leaf value gives another digest: normalising hides no difference."""
    path = tmp_path / "model.skops"
    path.write_bytes((fitted / "1.skops").read_bytes())
    before = bundle_store.normalise_skops(path)
    with zipfile.ZipFile(path) as archive:
        members = {n: archive.read(n) for n in archive.namelist()}
    name = max((n for n in members if n.endswith(".npy")), key=lambda n: len(members[n]))
    data = bytearray(members[name])
    data[-40] ^= 1
    _rewrite(path, {**members, name: bytes(data)})
    assert bundle_store.normalise_skops(path) != before


def test_normalised_model_goes_into_the_store(model, tmp_path):
    """A normalised file is a valid skops file to the store."""
    store = bundle_store.Store(tmp_path / "store")
    digest = bundle_store.normalise_skops(model)
    assert store.put(model, allow=bundle_store.MODEL_FORMATS).digest == digest
    bundle_store.load_skops(store.path(digest), trusted=TRUSTED)


def test_sets_and_shared_objects_survive(tmp_path):
    """Sets (whose order is the process's), shared, empty and special values come back equal, and sharing stays."""
    import skops.io

    shared = np.arange(3.0)
    value = {"s": {"b", "a", "c"}, "one": shared, "two": shared, "n": None, "t": (1, True, 1.5, ""), "e": [], "b": b"xyz", "i": np.int64(7)}
    path = tmp_path / "v.skops"
    skops.io.dump(value, path)
    bundle_store.normalise_skops(path)
    back = bundle_store.load_skops(path, trusted=())
    assert back["one"] is back["two"]
    assert np.array_equal(back["one"], shared)
    assert {k: v for k, v in back.items() if k not in ("one", "two")} == {k: v for k, v in value.items() if k not in ("one", "two")}


def test_the_order_of_a_set_does_not_matter(tmp_path):
    """Two dumps of one set in the two orders that two processes may see become equal."""
    import skops.io

    paths = [tmp_path / "a.skops", tmp_path / "b.skops"]
    for path in paths:
        skops.io.dump({"s": {"a", "b", ("c", 1)}}, path)
    with zipfile.ZipFile(paths[1]) as archive:
        schema = json.loads(archive.read("schema.json"))
    schema["content"]["s"]["content"].reverse()
    _rewrite(paths[1], {"schema.json": json.dumps(schema)})
    assert bundle_store.normalise_skops(paths[0]) == bundle_store.normalise_skops(paths[1])
    assert bundle_store.load_skops(paths[1], trusted=()) == {"s": {"a", "b", ("c", 1)}}


def test_types_beyond_the_list_are_refused(model):
    """Without the service's own list the model is refused, and the message names each missing type."""
    for missing in TRUSTED:
        with pytest.raises(errors.NotAllowed, match=missing.rpartition(".")[2]):
            bundle_store.load_skops(model, trusted=[t for t in TRUSTED if t != missing])


def test_the_list_holds_nothing_that_calls():
    """The fixed list has no functions, no partial, nothing from os, builtins only as plain values."""
    import importlib

    for name in skops_bytes.TYPES:
        module, _, attribute = name.rpartition(".")
        assert module.partition(".")[0] in ("builtins", "collections", "numpy", "scipy", "sklearn"), name
        found = getattr(importlib.import_module(module), attribute)
        assert isinstance(found, type), name


def _rewrite(path, members):
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        for name, data in members.items():
            archive.writestr(name, data)
    path.write_bytes(out.getvalue())


def _node(module, name, loader="ObjectNode", **more):
    return {"__module__": module, "__class__": name, "__loader__": loader, "__id__": 1, **more}


def _dict_of(node):
    keys = _node("builtins", "list", "ListNode", content=[_node("builtins", "str", "TypeNode", __id__=5)], __id__=4)
    return _node("builtins", "dict", "DictNode", content={"a": node}, key_types=keys, __id__=3)


def _schemas(canary):
    text = _node("builtins", "str", "JsonNode", content=json.dumps(str(canary)), is_json=True, __id__=9)
    args = _node("builtins", "tuple", "TupleNode", content=[text], __id__=8)
    empty = _dict_of(_node("builtins", "str", "JsonNode", content="1", is_json=True, __id__=10))
    for module, name in (
        ("posix", "mkdir"),
        ("os", "system"),
        ("builtins", "eval"),
        ("builtins", "exec"),
        ("subprocess", "Popen"),
        ("pickle", "loads"),
    ):
        call = _node(module, name, "FunctionNode", __id__=2)
        yield call
        yield _node(module, name, "TypeNode")
        yield _node("functools", "partial", "PartialNode", content={"func": call, "args": args, "kwds": empty, "namespace": empty})
        yield _node(module, name, "ConstructorFromReduceNode", content=args)
        yield _node(module, name, "OperatorFuncNode", attrs=args)
        yield _node(module, name, "ObjectNode", content=empty)
        yield _dict_of(call)
        yield _node("builtins", "list", "ListNode", content=[call])
        yield _node("sklearn.linear_model._ridge", "Ridge", "ObjectNode", content=_dict_of(call))
    yield _node("builtins", "map", "TypeNode")
    yield _node("evil_module", "Evil")
    yield _node("sklearn.pipeline", "Pipeline.__init__.__globals__", "TypeNode")
    yield _node("sklearn.utils._testing", "_delete_folder", "FunctionNode")
    yield _node("operator", "methodcaller", "OperatorFuncNode", attrs=args)
    yield _node("builtins", "str", "MethodNode", content={"func": "format", "obj": text})
    yield _node(None, None, "CachedNode")
    yield {"__class__": ["posix"], "__module__": {"system": 1}, "__loader__": "TypeNode"}


def test_schemas_that_name_code_are_refused(tmp_path):
    """posix.system, eval, unknown modules and the like, at every depth and by every kind of node, at every protocol: nothing runs."""
    canary = tmp_path / "ran"
    path = tmp_path / "model.skops"
    count = 0
    for schema in _schemas(canary):
        for protocol in (0, 1, 2, 99, True, None):
            _rewrite(path, {"schema.json": json.dumps({**schema, "protocol": protocol, "_skops_version": "0.16.0"})})
            with pytest.raises((errors.NotAllowed, errors.Damaged)):
                bundle_store.load_skops(path, trusted=())
            count += 1
    assert not canary.exists()
    assert count > 300


def test_unknown_types_are_refused_before_skops_is_asked(tmp_path):
    """The refusal needs no skops import: neither its list nor its bugs matter."""
    path = tmp_path / "model.skops"
    _rewrite(path, {"schema.json": json.dumps(_node("posix", "system", "FunctionNode", protocol=2))})
    code = (
        "import sys; from pathlib import Path; from lastgood import artifacts, errors\n"
        "try: artifacts.load_skops(Path(sys.argv[1]), trusted=())\n"
        "except errors.NotAllowed as e: print('posix.system' in str(e), 'skops' in sys.modules, 'numpy' in sys.modules)"
    )
    out = subprocess.run([sys.executable, "-c", code, str(path)], capture_output=True, text=True, check=True).stdout
    assert out.split() == ["True", "False", "False"]


def test_no_module_is_imported_for_an_unknown_type(tmp_path, monkeypatch):
    """A module named by the file is not even imported."""
    (tmp_path / "evil_module.py").write_text(f"import os; os.mkdir({str(tmp_path / 'ran')!r})\nclass Evil: pass\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    path = tmp_path / "model.skops"
    for loader in ("ObjectNode", "TypeNode", "FunctionNode"):
        _rewrite(path, {"schema.json": json.dumps(_node("evil_module", "Evil", loader, protocol=2))})
        with pytest.raises(errors.NotAllowed, match="evil_module"):
            bundle_store.load_skops(path, trusted=TRUSTED)
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("text", [b"", b"{", b"[]", b'"x"', b"null", b"[" * 100_000, b"{}", b'{"protocol": 2}', b"\xff"])
def test_broken_schemas(text, tmp_path):
    """A schema that does not parse or describes nothing is refused in our own terms."""
    path = tmp_path / "model.skops"
    _rewrite(path, {"schema.json": text})
    with pytest.raises((errors.NotAllowed, errors.Damaged)):
        bundle_store.load_skops(path, trusted=TRUSTED)
    with pytest.raises((errors.NotAllowed, errors.Damaged, errors.UsageError)):
        bundle_store.load_skops(tmp_path / "none.skops", trusted=TRUSTED)


def test_swelling_files_are_not_loaded(tmp_path):
    """A skops file that would swell 1,000-fold is refused by its table; so is one with object arrays."""
    path = tmp_path / "model.skops"
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("schema.json", json.dumps(_node("numpy", "ndarray", "NdArrayNode", type="numpy", file="1.npy", protocol=2)))
        archive.writestr("1.npy", bytes(20 << 20))
    path.write_bytes(out.getvalue())
    assert Path(path).stat().st_size < 100_000
    with pytest.raises(errors.NotAllowed, match="declares"):
        bundle_store.load_skops(path, trusted=TRUSTED)
    array = io.BytesIO()
    np.save(array, np.array([{}], dtype=object), allow_pickle=True)
    _rewrite(path, {"schema.json": b"{}", "1.npy": array.getvalue()})
    with pytest.raises(errors.NotAllowed, match="Python objects"):
        bundle_store.load_skops(path, trusted=TRUSTED)
