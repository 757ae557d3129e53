"""Requests made again where that may help, after a pause: growing, by chance, and as long as the server asked for."""

import time
from collections.abc import Callable
from email.utils import parsedate_to_datetime

from tenacity import (
    RetryCallState,
    Retrying,
    retry_if_exception_type,
    stop_after_attempt,
    wait_random_exponential,
)

from m3_core.errors import StoreUnavailable

LONGEST_PAUSE = 30.0
"""Seconds that a store waits by itself; if a server asks for more, its caller decides."""


def seconds_asked(header: str | None) -> float:
    """Seconds to wait by a Retry-After header, which is a number of them or a date; 0 if it is neither."""
    if header is None:
        return 0.0
    if header.strip().isdecimal():
        return float(header)
    try:
        return max(0.0, parsedate_to_datetime(header).timestamp() - time.time())
    except ValueError:
        return 0.0


def at_least_asked(pause: Callable[[RetryCallState], float]) -> Callable[[RetryCallState], float]:
    """The pause, or what the server asked for (`StoreUnavailable.retry_after`) where that is longer."""
    return lambda state: max(pause(state), _asked(state))


def retrying(retries: int) -> Retrying:
    """Calls something again when it raises `StoreUnavailable`, at most so many times, and raises the last one."""
    enough = stop_after_attempt(retries + 1)
    return Retrying(
        retry=retry_if_exception_type(StoreUnavailable),
        wait=at_least_asked(wait_random_exponential(multiplier=0.2, max=LONGEST_PAUSE)),
        stop=lambda state: enough(state) or _asked(state) > LONGEST_PAUSE,
        reraise=True,
    )


def _asked(state: RetryCallState) -> float:
    error = state.outcome.exception() if state.outcome is not None else None
    return error.retry_after if isinstance(error, StoreUnavailable) else 0.0
