"""What another user of the machine can do to a running stack: nothing."""

from __future__ import annotations

import contextlib
import json
import os
import socket
import stat
from pathlib import Path

import pytest

from bench.live_project import SERVICE
from bench.live_stack import Live
from lastgood import release
from lastgood.layers import desired as desired_state
from lastgood.layers import reconcile
from lastgood.layers.traffic.envoy import files as envoy_files
from lastgood.system import processes
from tests.integration.live import CANARY, ENDLESS, RATE, running

pytestmark = pytest.mark.timeout(240)

NOBODY = 65534
as_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")


def sockets(live: Live) -> list[Path]:
    """Every Unix socket of the stack, wherever the length of its name has put it."""
    records = [processes.read(path) for path in (live.settings.run(SERVICE) / "workers").glob("*.json")]
    return [envoy_files.files_of_service(live.settings, SERVICE).admin, *(Path(record.facts["socket"]) for record in records if record)]


def places(live: Live) -> list[Path]:
    """Home and everything below it, and the folders of sockets with what is in them."""
    roots = {live.settings.home, *(path.parent for path in sockets(live))}
    return sorted({path for root in roots for path in (root, *root.rglob("*")) if not path.is_symlink()})


def reached_as_nobody(live: Live) -> int:
    """How many files, folders and sockets of the stack a process of another user can open, list, write or connect to."""
    files, ends = places(live), sockets(live)
    pid = os.fork()
    if pid:
        return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    count = 255
    with contextlib.suppress(BaseException):
        os.setgroups([])
        os.setgid(NOBODY)
        os.setuid(NOBODY)
        count = sum(_opens(path, flags) for path in files for flags in (os.O_RDONLY, os.O_WRONLY, os.O_PATH | os.O_DIRECTORY))
        count += sum(_connects(path) for path in ends)
    os._exit(min(count, 255))


def _opens(path: Path, flags: int) -> bool:
    try:
        os.close(os.open(path, flags | os.O_NONBLOCK))
    except OSError:
        return False
    return not flags & os.O_DIRECTORY  # that a folder is there may be seen; not what is in it


def _connects(path: Path) -> bool:
    with socket.socket(socket.AF_UNIX) as end:
        try:
            end.connect(str(path))
        except OSError:
            return False
    return True


@as_root
@pytest.mark.parametrize("name", ["p", "a-project-whose-name-is-so-long-that-no-socket-fits-below-its-home-" + "x" * 40])
def test_a_running_stack_is_for_its_owner_alone(tmp_path: Path, name: str) -> None:
    """After a start, a release under load and a rollback: each file and socket has our owner and mode, and another user reaches none."""
    for folder in (tmp_path, *tmp_path.parents[:-2]):
        folder.chmod(folder.stat().st_mode | 0o011)  # so that it is not these that keep others out
    before = os.umask(0o022)
    try:
        (tmp_path / name).mkdir()
        with running(tmp_path / name, {**CANARY, **ENDLESS}) as (live, candidate), live.load(rate=RATE) as load:
            live.propose(candidate)
            live.until_phase("canary")
            release.roll_back(live.ctx, SERVICE, release.Request(actor="test", reason="enough"), to=live.state().stable)
            live.until(live.all_stable, what="traffic on stable")
            live.until(lambda: list(live.settings.inference(SERVICE).rglob("*.parquet")), what="rows in the log")
            found = {str(path): path.lstat() for path in places(live)}
            bad = {path: oct(one.st_mode) for path, one in found.items() if one.st_mode & 0o077 or one.st_uid != os.geteuid()}
            assert bad == {}
            kinds = {stat.S_IFMT(one.st_mode) for one in found.values()}
            assert {stat.S_IFREG, stat.S_IFDIR, stat.S_IFSOCK} <= kinds
            for part in ("ledger.db", "store", "keys", "audit", "inference", "logs", "run", "envoy"):
                assert any(f"/{part}" in path for path in found), f"{part} was not looked at"
            assert reached_as_nobody(live) == 0
            load.end()
    finally:
        os.umask(before)


@as_root
def test_forged_records_and_environments_change_nothing(tmp_path: Path) -> None:
    """A record of another user in place of a worker's is not believed: the worker is found by its own environment and goes on."""
    with running(tmp_path, {**CANARY, **ENDLESS}) as (live, _candidate):
        workers = live.settings.run(SERVICE) / "workers"
        file = next(workers.glob("*.json"))
        true = processes.read(file)
        assert true is not None
        forged = {**true.to_json(), "socket": str(tmp_path / "evil.sock")}
        file.unlink()
        file.write_text(json.dumps(forged))
        os.chown(file, NOBODY, NOBODY)
        assert any(str(file) in said for said in processes.strangers(live.settings.home))
        layers = reconcile.build(live.settings, SERVICE)
        wanted = desired_state.read(live.state(), ledger=live.ctx.ledger, store=live.ctx.store, settings=live.settings)
        live.until(lambda: reconcile.attempt(layers["infrastructure"], wanted).status == "converged", what="its own record again")
        again = processes.read(file)
        assert again is not None
        assert (again.pid, again.facts["socket"]) == (true.pid, true.facts["socket"])
        assert file.stat().st_uid == os.geteuid()
