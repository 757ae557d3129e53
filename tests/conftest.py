"""Settings for every test."""

from hypothesis import HealthCheck, settings

# Hypothesis fails a test that is slow; on a busy machine that says nothing about the code.
settings.register_profile("untimed", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("untimed")
