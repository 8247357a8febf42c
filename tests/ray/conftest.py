"""One Ray for all modules here but for those that start a Ray, a cluster or a command of their own."""

from tests.shared_ray import nothing_is_left, session

__all__ = ["nothing_is_left", "session"]
