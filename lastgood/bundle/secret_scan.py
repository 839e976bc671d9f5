"""Secrets in a text that is about to be released: a bundle is kept for years and copied widely.

Keys with a recognizable form are found, and never shown; words that merely look random are not reported, because a scan with many
false alarms gets switched off.

What does not belong here: which texts are scanned (`bundle.prompts`, the checks of a corpus).
"""

from __future__ import annotations

import dataclasses
import functools
import importlib
import pkgutil
import re
from typing import Any


@dataclasses.dataclass(frozen=True, slots=True, order=True)
class Found:
    """Location (lines from 1) and kind of a secret."""

    line: int
    kind: str


PLUGINS = (
    "AWSKeyDetector",
    "ArtifactoryDetector",
    "AzureStorageKeyDetector",
    "DiscordBotTokenDetector",
    "GitHubTokenDetector",
    "GitLabTokenDetector",
    "JwtTokenDetector",
    "MailchimpDetector",
    "NpmDetector",
    "OpenAIDetector",
    "PrivateKeyDetector",
    "PypiTokenDetector",
    "SendGridDetector",
    "SlackDetector",
    "SquareOAuthDetector",
    "StripeDetector",
    "TelegramBotTokenDetector",
    "TwilioKeyDetector",
)
"""Detectors of detect-secrets that recognize a form; those by entropy and by the word "password" are omitted."""


NEWER = {
    "Anthropic API key": r"\bsk-ant-[A-Za-z0-9_-]{20,}",
    "OpenAI API key": r"\bsk-(?:proj|svcacct|admin)-[A-Za-z0-9_-]{20,}",
}
"""Forms that detect-secrets does not recognize yet."""


def find(text: str) -> list[Found]:
    """Every secret in *text*, in the order of its lines."""
    plugins = _plugins()
    found = set()
    for number, line in enumerate(text.splitlines(), start=1):
        found |= {Found(number, plugin.secret_type) for plugin in plugins if any(True for _ in plugin.analyze_string(line))}
        found |= {Found(number, kind) for kind, form in NEWER.items() if re.search(form, line)}
    return sorted(found)


@functools.cache
def _plugins() -> tuple[Any, ...]:
    import detect_secrets.plugins

    modules = [
        importlib.import_module(f"detect_secrets.plugins.{one.name}") for one in pkgutil.iter_modules(detect_secrets.plugins.__path__)
    ]
    return tuple(getattr(module, name)() for module in modules for name in PLUGINS if name in vars(module))
