"""The options in a store's URL."""

import os
from urllib.parse import parse_qsl

from m3_core.errors import InputError

_SECRETS = frozenset({"api_key", "token", "password"})
_REFERENCE = "env:"


def url_options(query: str) -> dict[str, str]:
    """What stands behind the question mark, by name; a secret may stand there as ``api_key=env:VARIABLE``.

    So two stores of the same engine can have a key each, and the command line shows neither.

    Raises:
        InputError: the environment has no such variable.
    """
    return {
        name: _from_environment(name, value) if name in _SECRETS else value
        for name, value in parse_qsl(query, keep_blank_values=True)
    }


def _from_environment(name: str, value: str) -> str:
    if not value.startswith(_REFERENCE):
        return value
    variable = value.removeprefix(_REFERENCE)
    if variable not in os.environ:
        raise InputError(f"{name}={value} names a variable that the environment does not have")
    return os.environ[variable]
