"""Which help pages are kept out of training: decided by the page's path alone, in every language at once."""

import hashlib

BUCKETS = 20


def held_out(page: str) -> bool:
    """Whether ``page`` (a path below the help's ``text`` folder) is kept for the demo and the evaluation.

    One page in twenty, by the SHA-256 of its path, so that the choice is the same on every machine, for every
    language and whatever pages a new version adds.
    """
    return digest(page) % BUCKETS == 0


def digest(text: str) -> int:
    """A 64-bit number that depends on ``text`` only; used wherever a repeatable choice is needed."""
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big")
