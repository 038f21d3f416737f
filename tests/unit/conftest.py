"""Hypothesis without deadlines: a busy machine is no failed test."""

from hypothesis import settings

settings.register_profile("patient", deadline=None)
settings.load_profile("patient")
