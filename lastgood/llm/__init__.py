"""Language models as parts of a bundle: pinned, asked through one small contract, checked for how long they will live.

    base                the pin, the contract, what an answer is
    extractive          sentences of the passages themselves; no model, the default
    openai_compatible   hosted by OpenAI, or any server that speaks like it
    anthropic           hosted by Anthropic
    local               a small model from a package, on this machine
    liveness            whether a hosted model is still there, and for how long
    catalog             from a pin to a model

What does not belong here: prompts (`lastgood.bundle.prompts`), finding passages (`lastgood.index`).
"""
