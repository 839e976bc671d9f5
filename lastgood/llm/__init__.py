"""Language models as parts of a bundle: pinned, and queried through one small contract.

    base                the pin, the contract, what an answer is
    extractive          sentences of the passages themselves; no model, the default
    openai_compatible   hosted by OpenAI, or any server with the same API
    anthropic           hosted by Anthropic
    local               a small model from a package, on this machine
    catalog             from a pin to a model

What does not belong here: prompts (`lastgood.bundle.prompts`), finding passages (`lastgood.index`), how long a hosted model
will live (`lastgood.model_retirement`).
"""
