"""The layer that keeps a ready worker for every bundle that serves, is about to serve, or served last."""
