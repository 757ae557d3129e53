"""Which pauses are made before a request is made again."""

import time
from contextlib import suppress
from email.utils import formatdate

import pytest

from m3_core.errors import StoreError, StoreUnavailable
from m3_core.retrying import retrying, seconds_asked


@pytest.mark.parametrize(
    ("header", "seconds"),
    [(None, 0), ("", 0), ("0", 0), ("7", 7), (" 7 ", 7), ("-1", 0), ("1.5", 0), ("soon", 0)],
)
def test_seconds_asked(header: str | None, seconds: float) -> None:
    assert seconds_asked(header) == seconds


def test_dates_asked() -> None:
    now = time.time()
    assert 3590 < seconds_asked(formatdate(now + 3600, usegmt=True)) <= 3600
    assert seconds_asked(formatdate(now - 3600, usegmt=True)) == 0


def pauses_of(*errors: StoreError, retries: int = 4) -> list[float]:
    """The pauses of a call that fails so, one after the other, and then does not."""
    pauses: list[float] = []
    trying = retrying(retries)
    trying.sleep = pauses.append
    left = list(errors)

    def call() -> None:
        if left:
            raise left.pop(0)

    with suppress(StoreError):
        trying(call)
    return pauses


def test_pauses_grow_and_are_at_least_those_asked_for() -> None:
    plain = StoreUnavailable("no answer")
    growing = pauses_of(plain, plain, plain, plain)
    assert len(growing) == 4
    assert all(0 <= pause <= 0.2 * 2**turn for turn, pause in enumerate(growing))
    assert pauses_of(StoreUnavailable("busy", retry_after=7), plain)[0] == 7


def test_it_ends() -> None:
    plain = StoreUnavailable("no answer")
    assert len(pauses_of(*[plain] * 9, retries=2)) == 2
    assert pauses_of(StoreError("no")) == [], "permanent"
    assert pauses_of(StoreUnavailable("repairs", retry_after=3600)) == [], "longer than a store waits"


def test_a_server_that_hangs_is_not_waited_for_again_and_again(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = [0.0]
    monkeypatch.setattr(time, "monotonic", lambda: clock[0])
    calls = [0]
    trying = retrying(4)
    trying.sleep = lambda pause: clock.__setitem__(0, clock[0] + pause)

    def hang(seconds: float) -> None:
        calls[0] += 1
        clock[0] += seconds
        raise StoreUnavailable("timed out")

    for seconds, made in ((60, 1), (16, 2), (1, 5)):
        calls[0] = 0
        with pytest.raises(StoreUnavailable):
            trying(hang, seconds)
        assert calls[0] == made, seconds


def test_the_last_error_is_raised_as_it_is() -> None:
    errors = [StoreUnavailable(str(turn)) for turn in range(3)]
    trying = retrying(2)
    trying.sleep = lambda pause: None
    left = iter(errors)

    def call() -> None:
        raise next(left)

    with pytest.raises(StoreUnavailable) as caught:
        trying(call)
    assert caught.value is errors[-1]
