"""Options by names that nothing here knows."""

from typing import Any

from m3_core.errors import InputError


def refuse(options: dict[str, Any], known: str) -> None:
    """Raise InputError that names the options, if there are any, and those that are ``known``."""
    if options:
        raise InputError(f"unknown option {', '.join(map(repr, sorted(options)))}; there are {known}")
