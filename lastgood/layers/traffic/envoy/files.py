"""The folder of one service's Envoy: where its files are, written atomically and read with their checksums.

    bootstrap.json        fixed while Envoy runs          envoy.json     record of the process
    dyn/rds/rds.json      routes, watched by Envoy        kept.json      the last pair of documents that Envoy took over
    dyn/cds/cds.json      clusters, watched by Envoy      lock           held while one of them changes
    admin.sock            or admin.path, which names it   *.log          Envoy's own, requests, ejections

What does not belong here: the content of the documents (`config`), the order in which they change (`layer`).
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import re
import tempfile
from pathlib import Path

from lastgood import errors
from lastgood.layers.traffic.envoy import documents as envoy_documents
from lastgood.layers.traffic.envoy import users
from lastgood.layers.traffic.envoy.documents import Json
from lastgood.settings import Settings
from lastgood.system import files, permissions

USER_KEY_BYTES = 16
SOCKET_PATH_BYTES = 100
"""Unix socket paths end at 104 (macOS) or 108 bytes (Linux); some room is left."""


@dataclasses.dataclass(frozen=True, slots=True)
class Files:
    """Paths below `root`, and reading and writing them."""

    root: Path

    @property
    def bootstrap(self) -> Path:
        return self.root / "bootstrap.json"

    @property
    def routes(self) -> Path:
        return self.root / "dyn" / "rds" / "rds.json"

    @property
    def clusters(self) -> Path:
        """Not in the folder of `routes`: Envoy would read both again when either changes."""
        return self.root / "dyn" / "cds" / "cds.json"

    @property
    def kept(self) -> Path:
        return self.root / "kept.json"

    @property
    def record(self) -> Path:
        return self.root / "envoy.json"

    @property
    def lock(self) -> Path:
        return self.root / "lock"

    @property
    def log(self) -> Path:
        return self.root / "envoy.log"

    @property
    def access_log(self) -> Path:
        return self.root / "access.log"

    @property
    def ejections(self) -> Path:
        return self.root / "ejections.log"

    @property
    def admin(self) -> Path:
        """The admin socket; in a folder under the temp dir, noted in `admin.path`, if the path below `root` is too long."""
        if len(os.fsencode(self.root / "admin.sock")) <= SOCKET_PATH_BYTES:
            return self.root / "admin.sock"
        with contextlib.suppress(OSError):
            return Path((self.root / "admin.path").read_text("utf-8"))
        return self.root / "admin.sock"

    def make(self) -> None:
        """Create the folders, private to this user: the routes contain the debug token."""
        for folder in (self.root, self.routes.parent, self.clusters.parent):
            folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        self.root.chmod(0o700)
        if len(os.fsencode(self.root / "admin.sock")) > SOCKET_PATH_BYTES and not permissions.is_own_folder(self.admin.parent):
            (self.root / "admin.path").unlink(missing_ok=True)
        if len(os.fsencode(self.admin)) > SOCKET_PATH_BYTES:
            self.note_admin(_short_folder() / "admin.sock")

    def note_admin(self, path: Path) -> None:
        """Record where the admin socket is, if it is not below `root`."""
        write(self.root / "admin.path", os.fsencode(path))

    def touch_admin(self) -> None:
        """Keep a socket in a folder for temporary files from looking abandoned to a clean-up by age.

        Not in XDG_RUNTIME_DIR: that is emptied when a user's last session ends, and Envoy outlives sessions.
        """
        if self.admin.parent != self.root:
            for path in (self.admin.parent, self.admin):
                with contextlib.suppress(OSError):
                    os.utime(path)

    def read_clusters(self) -> dict[str, Json]:
        """The clusters on disk by name; none if the file is missing or damaged, since it is then rewritten."""
        with contextlib.suppress(errors.Damaged, FileNotFoundError):
            return {cluster["name"]: cluster for cluster in read(self.clusters)["resources"]}
        return {}

    def clusters_version(self) -> str | None:
        """Version of the clusters on disk; None if the file is missing or damaged."""
        with contextlib.suppress(errors.Damaged, FileNotFoundError):
            return str(read(self.clusters)["version_info"])
        return None

    def read_routes(self) -> Json | None:
        """The RDS document on disk; None if it is missing or damaged."""
        with contextlib.suppress(errors.Damaged, FileNotFoundError):
            return read(self.routes)
        return None

    def knows_users(self) -> bool:
        """Whether the Envoy that was started from here names users; one started by an older release does not."""
        try:
            return users.is_in(json.loads(self.bootstrap.read_bytes()))
        except (OSError, ValueError):
            return False

    def read_kept(self) -> tuple[Json, Json]:
        """The last (routes, clusters) that Envoy accepted. Raises Damaged or FileNotFoundError."""
        data = self.kept.read_bytes()
        try:
            value = json.loads(data)
            routes, clusters = envoy_documents.dumps(value["routes"]), envoy_documents.dumps(value["clusters"])
        except (ValueError, KeyError, TypeError, RecursionError) as error:
            raise errors.Damaged(
                f"{self.kept} is damaged: {error}; remove it and run 'lastgood up' when the ledger is available"
            ) from error
        return envoy_documents.parse(routes, where=str(self.kept)), envoy_documents.parse(clusters, where=str(self.kept))

    def keep(self, *, routes: Json, clusters: Json) -> None:
        """Record this pair as accepted; not synced, because after a power cut the synced documents themselves are there."""
        write(self.kept, envoy_documents.dumps({"routes": routes, "clusters": clusters}), sync=False)


def _short_folder() -> Path:
    """A new folder for us alone, with a path short enough for a socket in it. Raises Unavailable."""
    for place in dict.fromkeys((tempfile.gettempdir(), "/tmp")):  # noqa: S108  # mkdtemp makes a private one below it
        if len(os.fsencode(place)) + len("/lastgood-12345678/admin.sock") <= SOCKET_PATH_BYTES:
            return Path(tempfile.mkdtemp(prefix="lastgood-", dir=place))
    raise errors.Unavailable(
        "no folder has a name short enough for Envoy's admin socket; set TMPDIR to a folder with a shorter name, or move LASTGOOD_HOME"
    )


def files_of_service(settings: Settings, service: str) -> Files:
    """The files of *service*'s Envoy."""
    return Files(settings.envoy(service))


def read(path: Path) -> Json:
    """The document in *path*, checked. Raises Damaged or FileNotFoundError."""
    return envoy_documents.parse(path.read_bytes(), where=str(path))


def write(path: Path, data: bytes, *, sync: bool = True) -> None:
    """Replace *path* atomically, on disk before it is visible if *sync*; mode 0600. Envoy only notices a rename."""
    files.write(path, data, kept="whole" if sync else "fast")


def debug_token_file(settings: Settings) -> Path:
    """Where the debug token is kept, for its owner alone."""
    return settings.keys / "debug.token"


def debug_token(settings: Settings, *, make: bool) -> str:
    """The secret that lets a caller choose a bundle; created at random once if *make*, else empty where there is none."""
    return _secret(debug_token_file(settings), size=24, make=make)


def user_key(settings: Settings) -> str:
    """The secret by which the access log names users, random, created once: without it names cannot be traced to users. Raises Damaged."""
    path = settings.keys / "users.key"
    key = _secret(path, size=USER_KEY_BYTES, make=True)
    if not re.fullmatch(f"[0-9a-f]{{{2 * USER_KEY_BYTES}}}", key):
        raise errors.Damaged(
            f"{path} is not {2 * USER_KEY_BYTES} hex digits; restore it from a backup, or remove it: users then get new names in the access log"
        )
    return key


def _secret(path: Path, *, size: int, make: bool) -> str:
    """The hex digits stored in *path*; any number of processes that create them concurrently agree."""
    with contextlib.suppress(FileNotFoundError):
        return path.read_text("utf-8").strip()
    if not make:
        return ""
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    with contextlib.suppress(FileExistsError):
        staged = path.parent / f".{path.name}.{os.getpid()}"
        write(staged, os.urandom(size).hex().encode())
        try:
            os.link(staged, path)
        finally:
            staged.unlink()
    return path.read_text("utf-8").strip()
