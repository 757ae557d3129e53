"""A server's certificate that is not trusted: the same words for every engine."""

from m3_core.errors import StoreError


def distrusted(place: str, message: str) -> StoreError | None:
    """The error for it; None if the client's message is about something else. Trying again would not help."""
    if "CERTIFICATE_VERIFY_FAILED" not in message:
        return None
    return StoreError(
        f"{place}: the server's certificate is not trusted ({message}); if it should be, give ca_certs=..., the file of "
        "the authority that signed it"
    )
