"""Wiring: which definitions, jobs, hooks and resources make up the code location `lastgood`.

What does not belong here: what is versioned (`assets`), when something happens (`sensors`), how (`lastgood`).
"""
