"""The old place of `lastgood.bundle.store`, for code frozen in bundles (`lastgood.runtime_api`). It stays indefinitely."""

from lastgood.bundle.store import *  # noqa: F403
