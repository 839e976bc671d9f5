"""Operating lastgood itself: the local stack, its health, the demonstration."""
