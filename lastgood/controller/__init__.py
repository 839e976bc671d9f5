"""The loops: everything that happens without a person. `python -m lastgood.controller` runs them."""
