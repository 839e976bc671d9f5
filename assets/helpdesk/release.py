"""The release: which bundle is stable, and what the gates say of the one on its way."""

from assets import common, gates, live, windows

release = common.release("helpdesk", owners=["team:helpdesk-on-call"])

drift = windows.drift("helpdesk", owners=["team:helpdesk-on-call"])

checks = gates.checks("helpdesk")

live_checks = live.checks(
    "helpdesk",
    {
        "schema": "Requests have a question, and nothing else.",
        "questions": "Questions are as long as questions are, in words, and not one of them over and over.",
    },
)
