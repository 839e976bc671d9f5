"""Common base of the MLflow mirrors: time limits, one writer at a time, and errors that contain a remedy.

MLflow takes seconds to import and has no deadline of its own, so all work runs in parallel to the caller, who waits at most
`timeout_s`. Work that takes longer continues and is done once; until then the layer reports that MLflow is unavailable.

What does not belong here: what is mirrored (`layers.registry`, `layers.prompts`).
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from lastgood import errors
from lastgood.layers import base
from lastgood.system import processes

if TYPE_CHECKING:
    from mlflow import MlflowClient

BUSY_S = 3.0
"""Seconds to wait for another writer of MLflow's SQLite file. MLflow itself would wait 20, and retry ten times."""
HTTP_TIMEOUT_S = 5
"""Seconds for one answer of an MLflow server, instead of MLflow's 120; it is retried once."""

T = TypeVar("T")


class MlflowLayer(base.Layer):
    """See the module. *timeout_s*: how long a caller waits, in seconds; a new MLflow database takes ten of them."""

    def __init__(self, uri: str, *, lock: Path, timeout_s: float) -> None:
        self._uri = uri
        self._lock = lock
        self._timeout_s = timeout_s
        self._at_work: threading.Thread | None = None
        self._client: MlflowClient | None = None
        self._inode: tuple[int, int] | None = None

    def close(self) -> None:
        """Close the client; work that is still in progress ends by itself."""
        self._client = None

    def _has_no_file(self) -> bool:
        """Whether MLflow's database is a file that does not exist yet, so that there is nothing to read."""
        file = _sqlite_file(self._uri)
        return file is not None and not file.exists()

    def _locked(self, work: Callable[[], T]) -> T:
        with processes.locked(self._lock, wait_s=self._timeout_s / 2):
            return work()

    def _within_time(self, work: Callable[[], T]) -> T:
        """The result of *work*, if it arrives in time; any problem with MLflow is raised as LayerError."""
        if self._at_work is not None and self._at_work.is_alive():
            raise base.LayerError(f"MLflow at {self._uri} has still not answered an earlier call; check that server or file")
        _import()
        results: list[T] = []
        raised: list[Exception] = []

        def run() -> None:
            try:
                results.append(work())
            except Exception as error:  # noqa: BLE001  # handed over to the caller below
                raised.append(error)

        self._at_work = threading.Thread(target=run, name=f"mlflow-{self.name}", daemon=True)
        self._at_work.start()
        self._at_work.join(self._timeout_s)
        if self._at_work.is_alive():
            raise base.LayerError(f"MLflow at {self._uri} has not answered within {self._timeout_s:g} s; check that server or file")
        if raised:
            raise self._told(raised[0]) from raised[0]
        return results[0]

    def _told(self, error: Exception) -> Exception:
        import sqlalchemy.exc
        from mlflow.exceptions import MlflowException

        if isinstance(error, base.LayerError) or not isinstance(
            error, MlflowException | sqlalchemy.exc.SQLAlchemyError | OSError | errors.Unavailable
        ):
            return error
        cause = getattr(error, "orig", None) or error
        line = (str(cause).splitlines() or [type(cause).__name__])[0]
        return base.LayerError(f"MLflow at {self._uri} cannot be used: {line[:300]}; check that server or file")

    def _connect(self, *, write: bool) -> MlflowClient:
        from mlflow import MlflowClient

        file = _sqlite_file(self._uri)
        if file is not None:
            self._check_file(file, write=write)
        if self._client is None:
            self._client = MlflowClient(tracking_uri=self._uri, registry_uri=self._uri)
        return self._client

    def _check_file(self, file: Path, *, write: bool) -> None:
        """Detect at once, with a clear message, what MLflow would retry for minutes: locked, damaged, read-only, replaced."""
        inode = _inode(file)
        if self._inode is not None and self._inode != inode:
            raise base.LayerError(f"{file} was replaced while in use; restart the controller with 'lastgood down' and 'lastgood up'")
        file.parent.mkdir(parents=True, exist_ok=True)
        if inode is not None:
            _try_sqlite(self._uri, write=write)
        self._inode = inode


def or_none(call: Callable[[], T]) -> T | None:
    """The result of *call*, None if MLflow reports that the object does not exist."""
    from mlflow.exceptions import MlflowException

    try:
        return call()
    except MlflowException as error:
        if error.error_code == "RESOURCE_DOES_NOT_EXIST":
            return None
        raise


def _import() -> None:
    """Load MLflow, with short time limits and with its telemetry off; the user's own settings stay."""
    for name, value in {
        "MLFLOW_DISABLE_TELEMETRY": "true",
        "DO_NOT_TRACK": "1",
        "MLFLOW_HTTP_REQUEST_TIMEOUT": str(HTTP_TIMEOUT_S),
        "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1",
    }.items():
        os.environ.setdefault(name, value)
    try:
        import mlflow  # noqa: F401  # loaded here so that it does not count towards MLflow's answering time
    except ImportError as error:
        raise base.Rejected(f"MLflow is not installed ({error}); install 'lastgood[mlflow]', or set layers.registry to \"\"") from error


def _sqlite_file(uri: str) -> Path | None:
    """The file of an SQLite address, None for a server or another database."""
    return Path(uri.removeprefix("sqlite:///").partition("?")[0]) if uri.startswith("sqlite:///") else None


def _inode(file: Path) -> tuple[int, int] | None:
    try:
        status = file.stat()
    except FileNotFoundError:
        return None
    return status.st_dev, status.st_ino


def _try_sqlite(uri: str, *, write: bool) -> None:
    import sqlalchemy

    engine = sqlalchemy.create_engine(uri, poolclass=sqlalchemy.pool.NullPool, connect_args={"timeout": BUSY_S})
    with engine.connect() as connection:
        connection.exec_driver_sql("PRAGMA schema_version")
        if write:
            connection.exec_driver_sql("BEGIN IMMEDIATE")
            connection.exec_driver_sql("ROLLBACK")
