"""What a server takes from its clients at most, and who may ask."""

import hmac
from dataclasses import dataclass, field, fields

from squeezetune.errors import SettingsError
from squeezetune.quantities import judge_number
from squeezetune.serving.refusals import RequestError

MB = 1_000_000
MOST = 10**12  # of anything: what is above it can only be a slip


@dataclass(frozen=True)
class Limits:
    """How large, how many and how slow requests may be.

    `held_bytes` is what the bodies of all requests together may take; `waiting` counts images, not
    requests.

    Raises:
        SettingsError: one message that names every limit that makes no sense.

    """

    body_bytes: int = 20 * MB
    pixels: int = 50 * MB  # a phone's 48 megapixels
    images: int = 32
    time_s: float = 30.0
    waiting: int = 256
    held_bytes: int = 256 * MB
    header_bytes: int = 16_384
    idle_s: float = 10.0
    connections: int = 512

    def __post_init__(self) -> None:
        judged = (
            judge_number(item.name, getattr(self, item.name), 0, MOST, is_open=True)
            for item in fields(self)
        )
        problems = [problem for problem in judged if problem]
        if not problems and self.waiting < self.images:
            problems.append(
                f"{self.waiting:,} images may wait, but {self.images:,} may come in one request"
            )
        if not problems and self.held_bytes < 2 * self.body_bytes:  # the parts of a form are copies
            problems.append(
                f"all requests may hold {self.held_bytes:,} bytes; needed is 2 x "
                f"{self.body_bytes:,}"
            )
        if problems:
            raise SettingsError(
                "; ".join(problems),
                "See `squeezetune serve --help` for what each limits, and its default.",
            )


MIN_TOKEN_LENGTH = 16


@dataclass(frozen=True)
class Access:
    """The token that a client has to show; none lets everybody in. It is never printed.

    Raises:
        SettingsError: the token cannot be sent in a header, or is too easy to guess.

    """

    token: str | None = field(default=None, repr=False)

    def __post_init__(self) -> None:
        if self.token is None:
            return
        if not (self.token.isascii() and self.token.isprintable()) or " " in self.token:
            raise SettingsError("the token has characters that a header cannot hold", _HINT)
        if len(self.token) < MIN_TOKEN_LENGTH:
            raise SettingsError(
                f"the token has {len(self.token)} characters; needed are {MIN_TOKEN_LENGTH} or "
                f"more",
                _HINT,
            )

    def check(self, authorization: str | None) -> None:
        """Compare a request's Authorization header with the token, in a time that tells nothing of
        it.

        Raises:
            Refusal: it is missing, or another one.

        """
        if self.token is None:
            return
        scheme, _, shown = (authorization or "").partition(" ")
        is_right = hmac.compare_digest(shown.strip().encode(errors="replace"), self.token.encode())
        if scheme.lower() != "bearer" or not is_right:
            raise RequestError(
                "no-token",
                "This server asks for a token, and the request shows none or a wrong one",
                "Send it as a header: Authorization: Bearer TOKEN",
            )


_HINT = "Make one: python3 -c 'import secrets; print(secrets.token_urlsafe())'"
