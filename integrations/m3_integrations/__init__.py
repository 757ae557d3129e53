"""Stores and frameworks for m3_core. Each subpackage needs its own extra: ``m3_integrations.qdrant``, ..."""

__all__: list[str] = []
