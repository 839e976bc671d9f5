"""What may happen: states, events, guards and transitions of a release. Pure."""
