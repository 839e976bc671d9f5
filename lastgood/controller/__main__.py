"""`python -m lastgood.controller`."""

from lastgood.controller.loop import main

main()
