"""Reactions to events: each sensor asks one question and answers with events, a run, or a readable reason to skip."""
