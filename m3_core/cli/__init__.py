"""The command ``m3``: encode, ingest, search, check."""

from m3_core.cli.app import app, main

__all__ = ["app", "main"]
