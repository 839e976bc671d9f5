"""lastgood releases and rolls back a whole AI system as one unit.

The public surface is the command line (`lastgood --help`), the verbs in `lastgood.release`,
the contracts in `lastgood.layers.base` and `lastgood.serving.runtime`, and the shipped fakes in
`lastgood.testing`. Importing this package loads nothing else.
"""

__version__ = "0.1.0"
