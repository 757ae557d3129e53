"""The message for a missing optional package, in one place."""

from importlib import import_module
from types import ModuleType

from m3_core.errors import MissingExtra


def require(module: str, *, extra: str) -> ModuleType:
    """Import a module that an extra brings.

    Raises:
        MissingExtra: it is not installed; the message is the exact pip line.
    """
    try:
        return import_module(module)
    except ModuleNotFoundError as error:
        if error.name is None or error.name.split(".")[0] != module.split(".")[0]:
            raise  # the package is there, and something else is missing inside it
        raise MissingExtra(
            f"{module} is not installed; install it with: pip install 'm3-retrieval[{extra}]'"
        ) from error
