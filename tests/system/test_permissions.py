"""Whose files lastgood believes, and who can read what it writes."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest

from lastgood import errors, ledger, release
from lastgood import settings as settings_
from lastgood.settings import Settings
from lastgood.system import files, permissions
from lastgood.testing import projects

NOBODY = 65534
as_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a file to another user")


@pytest.fixture(autouse=True)
def _usual_umask() -> Iterator[None]:
    """Files are open to readers unless lastgood closes them, whatever the umask of whoever runs the tests."""
    before = os.umask(0o022)
    yield
    os.umask(before)


def opened(settings: Settings) -> None:
    """Open the home once, as every verb does."""
    with release.open_context(settings):
        pass


def open_to_others(folder: Path) -> list[str]:
    """What below *folder*, itself included, another user could read, write or enter."""
    return [
        f"{path} {stat.S_IMODE(path.lstat().st_mode):04o} uid {path.lstat().st_uid}"
        for path in (folder, *sorted(folder.rglob("*")))
        if not path.is_symlink() and (path.lstat().st_mode & 0o077 or path.lstat().st_uid != os.geteuid())
    ]


def test_nothing_that_a_release_writes_can_be_read_by_others(tmp_path: Path) -> None:
    """Home, ledger with its log, store, audit, keys and pages of a library user whose umask is the usual one."""
    settings = projects.project(tmp_path)
    with projects.opened(settings) as ctx:
        projects.released(ctx, 1.0)
        projects.released(ctx, 2.0)
        release.roll_back(ctx, "toy", release.Request(actor="test", reason="bad"))
        assert not open_to_others(settings.home)
        assert (settings.home / "ledger.db-wal").exists(), "looked at while it is there"
    assert os.umask(0o022) == 0o022, "the umask of whoever uses the library is theirs again"


def test_a_ledger_by_itself_is_closed_from_its_first_moment(tmp_path: Path) -> None:
    """Also one that is opened by nothing but its address."""
    with ledger.connect(f"sqlite:///{tmp_path / 'book' / 'ledger.db'}") as book:
        book.migrate()
        assert [stat.S_IMODE(path.stat().st_mode) for path in (tmp_path / "book").glob("ledger.db*") if "ballast" not in path.name]
        assert all(stat.S_IMODE(path.stat().st_mode) == 0o600 for path in (tmp_path / "book").glob("ledger.db*"))


def test_a_home_of_an_older_release_is_closed_once(tmp_path: Path) -> None:
    """Everything that others could read is closed at the next open; what is sealed keeps the stamps by which it is verified."""
    settings = projects.project(tmp_path)
    with projects.opened(settings) as ctx:
        projects.released(ctx, 1.0)
    sealed = [path for path in settings.store.rglob("*") if path.is_file()]
    before = {path: files.stamp(path) for path in sealed}
    for path in (settings.home, *settings.home.rglob("*")):
        if settings.store not in (path, *path.parents):
            path.chmod(0o755 if path.is_dir() else 0o644)
    settings.store.chmod(0o755)
    (settings.home / "keys" / "audit.key").chmod(0o600)
    opened(settings)
    assert not open_to_others(settings.home)
    assert {path: files.stamp(path) for path in sealed} == before
    late = settings.home / "note"
    late.touch(0o644)
    opened(settings)
    assert stat.S_IMODE(late.stat().st_mode) == 0o644, "looked through once only; the closed folder above keeps others out"


@pytest.mark.parametrize("mode", [0o777, 0o707, 0o1777])
@pytest.mark.parametrize("read_only", [False, True])
def test_a_home_that_others_may_write_is_refused_and_left_as_it_is(tmp_path: Path, mode: int, read_only: bool) -> None:
    """Whoever could write it may have put anything there; the error says what to do."""
    settings = projects.project(tmp_path)
    with projects.opened(settings) as ctx:
        projects.released(ctx, 1.0)
    settings.home.chmod(mode)
    with pytest.raises(errors.NotAllowed, match="chmod -R go-w"), release.open_context(settings, read_only=read_only):
        pass
    assert stat.S_IMODE(settings.home.stat().st_mode) == mode
    settings.home.chmod(0o755)
    opened(settings)


@as_root
def test_a_group_may_not_write_unless_the_user_is_alone_in_it(tmp_path: Path) -> None:
    """Many systems give each user a group of their own and a umask that leaves it open; another group is somebody else."""
    settings = projects.project(tmp_path)
    opened(settings)
    settings.home.chmod(0o770)
    opened(settings)
    assert stat.S_IMODE(settings.home.stat().st_mode) == 0o700
    os.chown(settings.home, 0, NOBODY)
    settings.home.chmod(0o770)
    with pytest.raises(errors.NotAllowed, match="written by others"):
        opened(settings)


@as_root
@pytest.mark.parametrize("name", ["", "ledger.db", "keys", "keys/audit.key", "store", "audit", "run"])
def test_a_home_or_a_trusted_name_in_it_of_another_user_is_refused(tmp_path: Path, name: str) -> None:
    """Named with its owner, before anything of it is read."""
    settings = projects.project(tmp_path)
    with projects.opened(settings) as ctx:
        projects.released(ctx, 1.0)
    settings.run("toy").mkdir(parents=True, exist_ok=True)
    os.chown(settings.home / name, NOBODY, NOBODY)
    for read_only in (False, True):
        with pytest.raises(errors.NotAllowed, match="belongs to nobody"), release.open_context(settings, read_only=read_only):
            pass


@as_root
def test_another_user_reaches_nothing_below_a_home(tmp_path: Path) -> None:
    """Reads, lists and writes of a process of another uid fail, for every file and folder there is."""
    for folder in (tmp_path, *tmp_path.parents[:-1]):
        if folder.stat().st_uid == os.geteuid() and folder != Path("/tmp"):  # noqa: S108
            folder.chmod(folder.stat().st_mode | 0o011)
    settings = projects.project(tmp_path)
    with projects.opened(settings) as ctx:
        projects.released(ctx, 1.0)
        paths = [settings.home, *settings.home.rglob("*")]
        pid = os.fork()
        if pid == 0:
            os._exit(_reached_as_nobody(paths))
        assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0, "how many of them another user could open"


def _reached_as_nobody(paths: list[Path]) -> int:
    os.setgroups([])
    os.setgid(NOBODY)
    os.setuid(NOBODY)
    reached = 0
    for path in paths:
        for flags in (os.O_RDONLY, os.O_WRONLY):
            try:
                os.close(os.open(path, flags))
            except (PermissionError, IsADirectoryError):  # a folder is asked only for reading
                continue
            reached += 1
    return min(reached, 255)


@as_root
def test_a_project_file_that_somebody_else_put_above_is_not_followed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It would say which ledger and which code to run; whoever means it names it."""
    below = tmp_path / "work" / "deep"
    below.mkdir(parents=True)
    file = tmp_path / "lastgood.toml"
    file.touch()
    monkeypatch.chdir(below)
    assert settings_.load(environ={}).project == tmp_path
    os.chown(file, NOBODY, NOBODY)
    with pytest.raises(errors.UsageError, match="belongs to nobody"):
        settings_.load(environ={})
    assert settings_.load(environ={"LASTGOOD_PROJECT": str(tmp_path)}).project == tmp_path
    os.chown(below, NOBODY, NOBODY)
    assert settings_.load(environ={}).project == tmp_path, "a checkout that belongs to one user as a whole"


@as_root
def test_a_folder_is_only_ours_if_we_own_it_and_nobody_else_may_enter(tmp_path: Path) -> None:
    """What stands in for a long socket folder: not a link, not another user's, not open."""
    folder = tmp_path / "f"
    folder.mkdir(mode=0o700)
    assert permissions.is_own_folder(folder)
    (tmp_path / "link").symlink_to(folder)
    assert not permissions.is_own_folder(tmp_path / "link")
    folder.chmod(0o711)
    assert not permissions.is_own_folder(folder)
    folder.chmod(0o700)
    os.chown(folder, NOBODY, NOBODY)
    assert not permissions.is_own_folder(folder)
    assert not permissions.is_own_folder(tmp_path / "none")
