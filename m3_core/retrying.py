"""Requests made again where that may help, after a pause: growing, by chance, and as long as the server asked for."""

import logging
import time
from collections.abc import Callable
from email.utils import parsedate_to_datetime
from threading import Event

from tenacity import (
    RetryCallState,
    Retrying,
    retry_if_exception_type,
    sleep_using_event,
    stop_after_attempt,
    stop_before_delay,
    stop_when_event_set,
    wait_exponential,
    wait_random,
    wait_random_exponential,
)

from m3_core.errors import StoreUnavailable

logger = logging.getLogger("m3_core.retrying")

LONGEST_PAUSE = 30.0
"""Seconds that a store waits by itself, for an answer or before it asks again; its caller decides about more."""


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
    """Calls something again when it raises `StoreUnavailable`, at most so many times, and raises the last one.

    Not again where the calls themselves took longer than `LONGEST_PAUSE`: a server that hangs keeps each waiting for
    its whole timeout, and five of those would be no answer for minutes.
    """
    enough = stop_after_attempt(retries + 1)
    return Retrying(
        retry=retry_if_exception_type(StoreUnavailable),
        wait=at_least_asked(wait_random_exponential(multiplier=0.2, max=LONGEST_PAUSE)),
        stop=lambda state: enough(state) or max(_asked(state), _waited(state)) > LONGEST_PAUSE,
        reraise=True,
    )


def patiently(patience: float, hurry: Event | None = None) -> Retrying:
    """Calls something again while it raises `StoreUnavailable`, with a warning, as far as so many seconds allow.

    hurry: set, it ends a pause, and there is none after it.
    """
    hurry = hurry or Event()
    return Retrying(
        retry=retry_if_exception_type(StoreUnavailable),
        wait=at_least_asked(wait_exponential(multiplier=0.5, max=LONGEST_PAUSE) + wait_random(0, 0.5)),
        stop=stop_before_delay(patience) | stop_when_event_set(hurry),
        sleep=sleep_using_event(hurry),
        before_sleep=_log,
        reraise=True,
    )


def _log(state: RetryCallState) -> None:
    error = state.outcome.exception() if state.outcome else None
    pause = state.next_action.sleep if state.next_action else 0.0
    logger.warning("%s; trying again in %.1f s", error, pause)


def _waited(state: RetryCallState) -> float:
    """Seconds spent in the calls, without the pauses between them."""
    return (state.seconds_since_start or 0.0) - state.idle_for


def _asked(state: RetryCallState) -> float:
    error = state.outcome.exception() if state.outcome is not None else None
    return error.retry_after if isinstance(error, StoreUnavailable) else 0.0
