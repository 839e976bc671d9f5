"""skops files: load one by our own list of types, and write one so that equal models have equal bytes.

A skops file is a zip of arrays and a `schema.json` that names the types to build. skops asks the caller which
of them to trust; MLflow passes back what the file itself names, which checks nothing. Here every
name must be in a list that is part of this program or of the service's own code, before skops sees the file.

What does not belong here: what may be stored (`formats`).
"""

from __future__ import annotations

import io
import json
import zipfile
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Any, BinaryIO

from lastgood import errors
from lastgood.bundle import formats, manifest
from lastgood.system import files as system_files

_LOSSES = (
    "HalfSquaredError",
    "HalfBinomialLoss",
    "HalfMultinomialLoss",
    "HalfPoissonLoss",
    "HalfGammaLoss",
    "AbsoluteError",
    "PinballLoss",
)

TYPES = frozenset(
    [
        *(f"builtins.{n}" for n in ("bool", "bytearray", "bytes", "dict", "float", "int", "list", "set", "slice", "str", "tuple")),
        "collections.OrderedDict",
        "numpy.dtype",
        "numpy.ma.MaskedArray",
        "numpy.ndarray",
        "numpy.random._generator.Generator",
        "numpy.random.mtrand.RandomState",
        *(f"numpy.{n}" for n in ("bool", "bool_", "float32", "float64", "int8", "int16", "int32", "int64", "str_")),
        *(f"numpy.{n}" for n in ("uint8", "uint16", "uint32", "uint64", "datetime64", "timedelta64")),
        *(f"scipy.sparse._{n}.{n}_{kind}" for n in ("csr", "csc", "coo") for kind in ("matrix", "array")),
        *(f"sklearn._loss.loss.{n}" for n in _LOSSES),
        *(f"sklearn._loss._loss.Cy{n}" for n in _LOSSES),
        *(f"sklearn._loss.link.{n}" for n in ("IdentityLink", "Interval", "LogLink", "LogitLink", "MultinomialLogit")),
        "sklearn.calibration.CalibratedClassifierCV",
        "sklearn.calibration._CalibratedClassifier",
        "sklearn.calibration._SigmoidCalibration",
        "sklearn.compose._column_transformer.ColumnTransformer",
        *(f"sklearn.ensemble._forest.{n}" for n in ("RandomForestClassifier", "RandomForestRegressor")),
        "sklearn.ensemble._hist_gradient_boosting.binning._BinMapper",
        "sklearn.ensemble._hist_gradient_boosting.gradient_boosting.HistGradientBoostingClassifier",
        "sklearn.ensemble._hist_gradient_boosting.gradient_boosting.HistGradientBoostingRegressor",
        "sklearn.impute._base.SimpleImputer",
        "sklearn.isotonic.IsotonicRegression",
        *(f"sklearn.linear_model._{n}" for n in ("logistic.LogisticRegression", "base.LinearRegression", "ridge.Ridge")),
        "sklearn.pipeline.Pipeline",
        *(f"sklearn.preprocessing._data.{n}" for n in ("StandardScaler", "MinMaxScaler", "RobustScaler")),
        *(f"sklearn.preprocessing._encoders.{n}" for n in ("OneHotEncoder", "OrdinalEncoder")),
        "sklearn.preprocessing._function_transformer.FunctionTransformer",
        "sklearn.preprocessing._label.LabelEncoder",
        *(f"sklearn.tree._classes.{n}" for n in ("DecisionTreeClassifier", "DecisionTreeRegressor")),
    ]
)
"""Types that only hold numbers and parameters. Omitted on purpose, to be named by the service that needs them: functions,
`functools.partial`, and the tree structures that scikit-learn walks without bounds checks."""

_SCHEMA = "schema.json"
_MAX_SCHEMA = 256 << 20
_MOMENT = (1980, 1, 1, 0, 0, 0)


def load(path: Path, *, trusted: Collection[str]) -> object:
    """The object in a skops file; nothing is built unless every type named in it is in TYPES or in *trusted*.

    *trusted* must be a constant of the service's code, never read from the file or from anything next to it. Raises
    NotAllowed for an unknown type or a hostile file (decompression bomb, repeated or pickled members), Damaged if it does not load.
    """
    with formats.open_regular(path) as file:
        formats.check_content(file, name="model.skops")
        present = set(_types(_schema(file)))
        unknown = sorted(present - TYPES - set(trusted))
        if unknown:
            raise errors.NotAllowed(
                f"{str(path)!r} would construct {', '.join(unknown[:8])}; if the service needs these types and they are harmless,"
                " add them to the trusted types in its code"
            )
        import skops.io

        file.seek(0)
        try:
            return skops.io.load(file, trusted=sorted(present))
        except Exception as error:
            raise errors.Damaged(f"{str(path)!r} cannot be loaded: {error}; train and save the model again") from error


def normalise(path: Path) -> str:
    """Rewrite the skops file at *path* in one canonical form and return its digest; what it loads is unchanged.

    skops names arrays and objects by their memory address and stamps members with the time of day, so two dumps of one
    model differ. Here they are numbered in the order in which the schema mentions them, members are sorted and stored
    without compression or time. Bytes then depend on the fitted model and on the versions of skops and scikit-learn.
    """
    with formats.open_regular(path) as file:
        formats.check_content(file, name="model.skops")
        schema = _schema(file)
        with zipfile.ZipFile(file) as archive:
            members = _renamed(schema, archive)
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_STORED) as archive:
        for name in sorted(members):
            info = zipfile.ZipInfo(name, date_time=_MOMENT)
            info.create_system, info.external_attr = 3, 0o600 << 16
            archive.writestr(info, members[name])
    system_files.write(path, buffer.getvalue())
    return manifest.sha256(buffer.getvalue())


def _schema(file: BinaryIO) -> Any:
    file.seek(0)
    with zipfile.ZipFile(file) as archive:
        if archive.getinfo(_SCHEMA).file_size > _MAX_SCHEMA:
            raise errors.NotAllowed(f"the schema is larger than {_MAX_SCHEMA >> 20} MiB; do not load this file")
        try:
            return json.loads(archive.read(_SCHEMA))
        except (ValueError, RecursionError, zipfile.BadZipFile) as error:
            raise errors.Damaged(f"the schema of a skops file does not parse: {error}; train and save the model again") from error


def _nodes(schema: Any) -> Iterator[dict[str, Any]]:
    """Every JSON object in *schema*, parents first, in order of appearance."""
    pending = [schema]
    while pending:
        value = pending.pop()
        if isinstance(value, dict):
            yield value
            pending.extend(reversed(value.values()))
        elif isinstance(value, list):
            pending.extend(reversed(value))


def _types(schema: Any) -> Iterator[str]:
    for node in _nodes(schema):
        if "__class__" in node or "__module__" in node or "__loader__" in node:
            yield f"{node.get('__module__')}.{node.get('__class__')}"


def _renamed(schema: Any, archive: zipfile.ZipFile) -> dict[str, bytes]:
    _sort_sets(schema)
    numbers: dict[Any, int] = {}
    files: dict[str, str] = {}
    for node in _nodes(schema):
        if isinstance(node.get("__id__"), int):
            key = ("value", node.get("content")) if node.get("__loader__") == "JsonNode" else node["__id__"]
            node["__id__"] = numbers.setdefault(key, len(numbers) + 1)
        if isinstance(node.get("file"), str):
            stem, _, suffix = node["file"].rpartition(".")
            node["file"] = files.setdefault(node["file"], f"{len(files) + 1}.{suffix}") if stem else node["file"]
    members = {new: archive.read(old) for old, new in files.items()}
    return {**members, _SCHEMA: json.dumps(schema, separators=(",", ":"), ensure_ascii=True).encode()}


def _sort_sets(schema: Any) -> None:
    """Sets have no order: the order in which one was saved depends on the process."""
    for node in _nodes(schema):
        if node.get("__loader__") == "SetNode":
            node["content"].sort(key=_without_ids)


def _without_ids(value: Any) -> str:
    return json.dumps(json.loads(json.dumps(value), object_hook=_stripped), sort_keys=True)


def _stripped(node: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in node.items() if key not in {"__id__", "file"}}
