"""Requests that are refused: one shape of answer, whatever is wrong."""

from collections.abc import Mapping
from typing import Any

# The stable name of a refusal -> its HTTP status.
STATUSES: Mapping[str, int] = {
    "bad-request": 400,
    "no-token": 401,
    "not-found": 404,
    "wrong-method": 405,
    "too-slow": 408,
    "too-large": 413,
    "too-many-images": 400,
    "wrong-type": 415,
    "no-image": 422,
    "long-headers": 431,
    "vanished": 499,  # the client is gone; only the log sees it
    "internal": 500,
    "busy": 503,
}
_HEADERS: Mapping[int, dict[str, str]] = {
    401: {"WWW-Authenticate": "Bearer"},
    503: {"Retry-After": "1"},
}


class RequestError(Exception):  # what is wrong is the request
    """A request that is not served, and why; `hint` says what to do about it."""

    def __init__(self, code: str, message: str, hint: str = "") -> None:
        super().__init__(message)
        self.code, self.message, self.hint = code, message, hint
        self.status = STATUSES[code]

    @property
    def headers(self) -> dict[str, str]:
        """The headers that belong to its status."""
        return _HEADERS.get(self.status, {})

    def describe(self) -> dict[str, Any]:
        """Return it as plain values for JSON."""
        return {"error": {"code": self.code, "message": self.message, "hint": self.hint}}


def refuse_headers(limit: int) -> RequestError:
    """Refuse headers that are too long."""
    return RequestError(
        "long-headers", f"The headers have more than {limit:,} bytes", "Send fewer or shorter ones."
    )
