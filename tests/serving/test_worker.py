"""The worker as a process: it serves one verified bundle from the store, or does not start; a kill loses little."""

from __future__ import annotations

import http.client
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from lastgood import errors, testing
from lastgood.bundle import manifest, store
from lastgood.service import schema
from lastgood.serving import inference_log, runtime, segments, worker
from tests.services import samples
from tests.serving.conftest import Home
from tests.serving.test_app import FLIGHT

EVER = {"since": 0.0, "until": 4e9}
START_S = 90.0


class Process:
    """A worker in a process of its own."""

    def __init__(
        self, home: Home, bundle_id: str, *, project: Path | None = None, service: str = "flights", port: int | None = None
    ) -> None:
        self.port = port or testing.free_port()
        env = {**os.environ, "LASTGOOD_HOME": str(home.settings.home), "LASTGOOD_PROJECT": str(project or samples.PROJECT)}
        env["PYTHONPATH"] = str(samples.PROJECT)
        command = [sys.executable, "-m", "lastgood.serving.worker", "--service", service, "--bundle", bundle_id, "--port", str(self.port)]
        self.log = home.settings.home / f"worker-{self.port}.log"
        self.log.parent.mkdir(parents=True, exist_ok=True)
        with self.log.open("ab") as log:
            self.child = subprocess.Popen(command, env=env, stdout=log, stderr=log, cwd=home.settings.home)

    def ask(self, method: str, path: str, body: Any = None, **headers: str) -> tuple[int, dict[str, str], Any]:
        """Status, headers and parsed body of one request on a fresh connection."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=30)
        try:
            connection.request(
                method, path, None if body is None else json.dumps(body), {k.replace("_", "-"): v for k, v in headers.items()}
            )
            answer = connection.getresponse()
            return answer.status, {name.lower(): value for name, value in answer.getheaders()}, json.loads(answer.read())
        finally:
            connection.close()

    def wait_ready(self) -> Process:
        """Return once it is ready; fail with its log if it ends or takes too long."""
        deadline = time.monotonic() + START_S
        while time.monotonic() < deadline:
            assert self.child.poll() is None, self.log.read_text()
            try:
                if self.ask("GET", "/readyz")[0] == 200:
                    return self
            except (ConnectionError, TimeoutError):
                pass
            time.sleep(0.05)  # a tighter loop would take the worker's processor
        raise AssertionError(f"not ready in {START_S} s: {self.log.read_text()}")

    def end(self, number: int = signal.SIGTERM) -> int:
        """Send a signal and return the exit code."""
        self.child.send_signal(number)
        return self.child.wait(timeout=60)


@pytest.fixture
def start(home: Home) -> Iterator[Any]:
    """Starts workers of the test's home and ends them afterwards."""
    started: list[Process] = []

    def begin(bundle_id: str, **kwargs: Any) -> Process:
        started.append(Process(home, bundle_id, **kwargs))
        return started[-1]

    yield begin
    for process in started:
        if process.child.poll() is None:
            process.child.kill()
            process.child.wait(timeout=60)


def predictions(home: Home) -> list[dict[str, Any]]:
    """What the log on disk holds now."""
    table = inference_log.read_predictions(home.settings.inference("flights"), **EVER)
    return [] if table is None else table.to_pylist()


@pytest.mark.timeout(300)
def test_a_worker_serves_its_bundle_and_ends_politely(home: Home, start: Any, tmp_path: Path) -> None:
    """From the store alone, with no project folder to fall back on, it gets ready, answers, logs, and exits with 0 on SIGTERM."""
    made = home.bundle()
    process = start(made.id, project=tmp_path / "empty").wait_ready()
    status, headers, about = process.ask("GET", "/readyz")
    assert (status, about["bundle"], headers["x-lastgood-bundle"]) == (200, made.id, made.id)
    assert about["parts"] == {name: part.digest for name, part in made.parts.items()}
    assert "cannot compare environments" in about["notes"][0]
    status, headers, answer = process.ask("POST", "/predict", FLIGHT, x_request_id="one")
    assert (status, headers["x-request-id"], answer["bundle"]) == (200, "one", made.id)
    assert process.ask("POST", "/feedback", {"request_id": "one", "arr_delay_min": 31.0})[0] == 202
    assert process.end() == 0
    (row,) = inference_log.labelled(home.settings.inference("flights"), **EVER).to_pylist()
    assert (row["caller_id"], row["label"], row["probability"]) == ("one", 1.0, answer["predictions"][0]["probability"])
    for digest in (made.id, *(part.digest for part in made.parts.values())):
        home.store.verify(digest)


@pytest.mark.timeout(300)
def test_a_kill_leaves_whole_segments_and_loses_only_the_end(home: Home, start: Any) -> None:
    """After kill -9 every row that was on disk is readable, what is lost is the newest, and the next worker goes on."""
    made = home.bundle()
    process = start(made.id).wait_ready()
    for number in range(20):
        assert process.ask("POST", "/predict", FLIGHT, x_request_id=f"{number:03d}")[0] == 200
    deadline = time.monotonic() + START_S
    while len(predictions(home)) < 20:
        assert process.child.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.05)
    for number in range(20, 60):
        assert process.ask("POST", "/predict", FLIGHT, x_request_id=f"{number:03d}")[0] == 200
    assert process.end(signal.SIGKILL) == -signal.SIGKILL
    left = [row["caller_id"] for row in predictions(home)]
    assert left == [f"{number:03d}" for number in range(len(left))]
    assert len(left) >= 20
    again = start(made.id).wait_ready()
    assert again.ask("POST", "/predict", FLIGHT, x_request_id="after")[0] == 200
    assert again.end() == 0
    assert [row["caller_id"] for row in predictions(home)] == [*left, "after"]


def test_a_damaged_model_is_not_served(home: Home, start: Any) -> None:
    """One flipped bit in the stored model: the process ends with 1, says which file, and never listens."""
    made = home.bundle()
    flip(home.store.path(made.parts["model"].digest) / "model.skops")
    process = start(made.id)
    assert process.child.wait(timeout=START_S) == 1
    assert "model.skops" in process.log.read_text()
    assert "damaged" in process.log.read_text()
    with pytest.raises(ConnectionRefusedError):
        process.ask("GET", "/healthz")


def test_a_taken_port_is_named(home: Home, start: Any) -> None:
    """If somebody else holds the port the worker says so and ends with 1, before it loads anything."""
    with socket.socket() as holder:
        holder.bind(("127.0.0.1", 0))
        holder.listen()
        process = start("sha256:" + "0" * 64, port=holder.getsockname()[1])
        assert process.child.wait(timeout=START_S) == 1
    assert "choose another port" in process.log.read_text()


def test_an_unknown_bundle_ends_with_the_exit_code_of_not_found(home: Home, start: Any) -> None:
    """A digest that the store does not have gives exit code 2 and a message with a remedy."""
    process = start("sha256:" + "0" * 64)
    assert process.child.wait(timeout=START_S) == 2
    assert "import its bundle" in process.log.read_text()


def flip(file: Path) -> None:
    """Change one bit in the middle of a stored file."""
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.chmod(0o644)
    file.write_bytes(content)


@pytest.mark.parametrize("name", ["data", "model", "config", "environment"])
def test_any_damaged_part_is_refused(name: str, home: Home) -> None:
    """Each part is verified, also those that the runtime does not read."""
    made = home.bundle()
    path = home.store.path(made.parts[name].digest)
    flip(next(file for file in sorted(path.iterdir())) if path.is_dir() else path)
    with pytest.raises(errors.Damaged, match=made.parts[name].digest):
        home.load(made)


def test_a_missing_part_is_refused(home: Home) -> None:
    """A part that is gone from the store is named."""
    made = home.bundle()
    shutil.rmtree(home.store.path(made.parts["environment"].digest).parent)
    with pytest.raises(errors.NotFound, match=made.parts["environment"].digest):
        home.load(made)


def test_code_is_not_run_before_it_is_verified(home: Home, tmp_path: Path) -> None:
    """Code planted into the stored configuration is found before it could run."""
    made = home.bundle()
    folder = home.store.path(made.parts["config"].digest)
    folder.chmod(0o755)
    mark = tmp_path / "ran"
    (folder / "features.py").chmod(0o644)
    (folder / "features.py").write_text(f"open({str(mark)!r}, 'w')\n")
    with pytest.raises(errors.Damaged, match=r"features\.py"):
        home.load(made)
    assert not mark.exists()


def test_a_part_is_no_bundle(home: Home) -> None:
    """The digest of something else in the store is refused, whatever it holds."""
    made = home.bundle()
    with pytest.raises(errors.Damaged):
        worker.read_manifest(home.store, made.parts["data"].digest)


def test_a_bundle_of_another_service_is_refused(home: Home) -> None:
    """A worker started for one service does not serve another one's bundle."""
    with pytest.raises(errors.UsageError, match="'flights'"):
        worker.load(home.settings, service="helpdesk", bundle=home.bundle().id, now=0.0)


@pytest.mark.parametrize(
    ("code", "message"),
    [
        ("raise RuntimeError('at import')", "at import"),
        ("Runtime = 7", "not a subclass"),
        ("", "cannot be imported"),
        ("def (", "cannot be imported"),
    ],
)
def test_code_that_is_no_runtime_is_refused(code: str, message: str, home: Home, tmp_path: Path) -> None:
    """Configuration code that fails to import, or whose class is something else, gives one clear error."""
    config = schema.freeze(samples.PROJECT / "services" / "flights", tmp_path / "config")
    (config / "runtime.py").write_text(code + f"\n# {message}\n")
    with pytest.raises(errors.Damaged, match=message):
        home.load(home.bundle(replace={"config": config}))


def test_the_code_comes_from_the_bundle(home: Home, tmp_path: Path) -> None:
    """A bundle keeps the code it was frozen with, whatever the service folder holds by now."""
    config = schema.freeze(samples.PROJECT / "services" / "flights", tmp_path / "config")
    source = (config / "runtime.py").read_text()
    (config / "runtime.py").write_text(source.replace('"late": value >= self._options.late_from', '"late": "by frozen code"'))
    loaded = home.load(home.bundle(replace={"config": config}))
    row = loaded.runtime.Request.model_validate_json(json.dumps(FLIGHT))
    assert loaded.runtime.predict([row])[0]["late"] == "by frozen code"
    assert sys.modules[type(loaded.runtime).__module__].__file__.startswith(str(home.store.root))


def test_a_model_with_untrusted_types_is_refused(home: Home, tmp_path: Path) -> None:
    """A skops file that names a type outside our list is not built, though its digest is right."""
    import operator

    import skops.io

    bad = tmp_path / "model"
    shutil.copytree(samples.model_folder(), bad)
    skops.io.dump({"call": operator.attrgetter("x")}, bad / "model.skops")
    try:
        made = home.bundle(replace={"model": bad})
    except errors.LastgoodError:
        return
    with pytest.raises(errors.LastgoodError):
        home.load(made)


def test_another_environment_is_told_and_served(home: Home, tmp_path: Path) -> None:
    """Other locked packages or another Python are noted in words; the bundle is served all the same."""
    from lastgood.bundle import environment

    recorded = {**environment.describe(samples.PROJECT / "requirements.lock"), "lock": "sha256:" + "0" * 64, "python": "3.99.1"}
    (tmp_path / environment.FILE).write_bytes(environment.encode(recorded))
    loaded = home.load(home.bundle(replace={"environment": tmp_path / environment.FILE}))
    assert [note.split(":")[0] for note in loaded.notes] == ["locked packages", "python"]
    assert home.load(home.bundle()).notes == ()


def test_a_patch_release_of_python_is_no_difference() -> None:
    """3.11.7 and 3.11.9 are one environment; 3.12 is another."""
    from lastgood.bundle import environment

    base = {"lock": "sha256:a", "python": "3.11.7", "implementation": "CPython", "platform": "linux", "machine": "x86_64"}
    assert environment.differences(base, {**base, "python": "3.11.9"}) == []
    assert len(environment.differences(base, {**base, "python": "3.12.0", "machine": "arm64"})) == 2


def test_a_worker_can_load_a_bundle_from_nothing_but_the_store(home: Home, tmp_path: Path) -> None:
    """Copied into an empty home, the stored objects alone are enough: no ledger, no service folder."""
    made = home.bundle()
    other = home.settings.model_copy(update={"home": tmp_path / "other", "project": tmp_path / "nowhere"})
    shutil.copytree(home.store.root, other.store)
    loaded = worker.load(other, service="flights", bundle=made.id, now=0.0)
    assert loaded.bundle == made
    assert sorted(path.name for path in other.home.iterdir()) == ["store"]


def test_labels_are_numbers_unless_a_service_says_otherwise() -> None:
    """The default `label` takes a number and refuses anything else."""

    class Plain(runtime.Runtime):
        """The least a runtime must have."""

        @classmethod
        def load(cls, parts: Any, options: Any) -> Plain:
            """Nothing to load."""
            return cls()

        def predict(self, rows: Any) -> list[dict[str, Any]]:
            """Nothing to say."""
            return []

        def warm_up(self) -> list[dict[str, Any]]:
            """Nothing to try."""
            return []

    assert Plain().label({"label": 2}) == 2
    assert Plain().label({"other": 2}) is None
    for wrong in (True, "1"):
        with pytest.raises(ValueError, match="label"):
            Plain().label({"label": wrong})


def test_the_manifest_in_the_store_is_the_bundle(home: Home) -> None:
    """The manifest's stored digest is the bundle's id, which is why a worker needs no ledger."""
    made = home.bundle()
    assert store.digest_file(home.store.path(made.id)) == made.id
    assert worker.read_manifest(home.store, made.id) == made
    assert manifest.is_digest(made.id)
    assert segments.day_name(0.0) == "dt=1970-01-01"
