"""The loops: everything that happens without a person. Run by `python -m lastgood.controller`."""
