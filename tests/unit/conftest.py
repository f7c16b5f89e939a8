"""Hypothesis without a clock: an example that is slow on a busy machine is no failure."""

from hypothesis import settings

settings.register_profile("no-clock", deadline=None)
settings.load_profile("no-clock")
