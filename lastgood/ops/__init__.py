"""Operating lastgood itself: the local stack, and the claims of the demonstrations."""
