"""Serving one bundle: a worker process around a team's runtime, its inference log, and feedback."""
