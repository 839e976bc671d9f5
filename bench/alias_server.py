"""The processes of the control: `serve` answers by MLflow aliases, `switch` sets them. See `bench.aliases`."""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import fastapi
    from mlflow import MlflowClient

NAME = "toy"
PROMPT = "toy-prompt"
ALIAS = "stable"


def open_client(uri: str) -> MlflowClient:
    """A client of the registry at *uri*, with two versions of a model and of a prompt; the first of each is stable."""
    from mlflow import MlflowClient

    client = MlflowClient(tracking_uri=uri, registry_uri=uri)
    if not client.search_registered_models(filter_string=f"name = '{NAME}'"):
        client.create_registered_model(NAME)
        client.create_prompt(PROMPT)
        for number in (1, 2):
            client.create_model_version(NAME, source=f"lastgood://bench/{number}")
            client.create_prompt_version(PROMPT, template=f"prompt {number}: {{{{question}}}}")
        switch(client, "1")
    return client


def switch(client: MlflowClient, version: str) -> None:
    """Make *version* of both stable, one right after the other."""
    client.set_registered_model_alias(NAME, ALIAS, version)
    client.set_prompt_alias(PROMPT, ALIAS, int(version))


def application(client: MlflowClient, *, cache_s: float, by_load_prompt: bool = False) -> fastapi.FastAPI:
    """Answers every request with the versions that the two aliases name.

    *by_load_prompt*: the prompt is read as MLflow's documentation has it, by `load_prompt`, which remembers an alias by itself.
    """
    import fastapi

    app = fastapi.FastAPI()
    model = remembered(lambda: str(client.get_model_version_by_alias(NAME, ALIAS).version), cache_s=cache_s)
    prompt = remembered(lambda: str(client.get_prompt_version_by_alias(PROMPT, ALIAS).version), cache_s=cache_s)
    if by_load_prompt:
        prompt = loaded_prompt

    @app.post("/predict")
    def predict() -> dict[str, str]:
        return {"model": model(), "prompt": prompt()}

    @app.get("/healthz")
    def healthz() -> dict[str, bool]:
        return {"ok": True}

    return app


def remembered(read: Callable[[], str], *, cache_s: float) -> Callable[[], str]:
    """*read*, asked again only after *cache_s* seconds; always if that is 0."""
    kept: tuple[float, str] = (float("-inf"), "")

    def look() -> str:
        nonlocal kept
        if not cache_s:
            return read()
        if time.monotonic() - kept[0] >= cache_s:
            kept = time.monotonic(), read()
        return kept[1]

    return look


def loaded_prompt() -> str:
    """The version that `load_prompt` gives."""
    import mlflow.genai

    return str(mlflow.genai.load_prompt(f"prompts:/{PROMPT}@{ALIAS}").version)


def serve(options: argparse.Namespace) -> None:
    """Answer until SIGTERM; say `ready` once the port is open."""
    import mlflow
    import uvicorn

    mlflow.set_tracking_uri(options.uri)
    app = application(open_client(options.uri), cache_s=options.cache_s, by_load_prompt=options.load_prompt)
    app.router.on_startup.append(lambda: print("ready", flush=True))
    uvicorn.run(app, host="127.0.0.1", port=options.port, loop="uvloop", http="httptools", access_log=False, log_level="warning")


def switch_often(options: argparse.Namespace) -> None:
    """Switch, pause, and so on; print when each switch began, as a JSON list of Unix seconds."""
    client = open_client(options.uri)
    began = []
    for number in range(options.count):
        time.sleep(options.pause_s)
        began.append(time.time())
        switch(client, "2" if number % 2 == 0 else "1")
    time.sleep(options.pause_s)
    json.dump(began, sys.stdout)


def main() -> None:
    """Be one of the two processes."""
    parser = argparse.ArgumentParser(description=__doc__)
    verbs = parser.add_subparsers(required=True)
    serving = verbs.add_parser("serve")
    serving.add_argument("--port", type=int, required=True)
    serving.add_argument("--cache-s", type=float, required=True)
    serving.add_argument("--load-prompt", action="store_true")
    serving.set_defaults(verb=serve)
    switching = verbs.add_parser("switch")
    switching.add_argument("--count", type=int, required=True)
    switching.add_argument("--pause-s", type=float, required=True)
    switching.set_defaults(verb=switch_often)
    for one in (serving, switching):
        one.add_argument("--uri", required=True)
    options = parser.parse_args()
    options.verb(options)


if __name__ == "__main__":
    main()
