"""Who may ask: everybody, or those who know a token."""

import hmac
from dataclasses import dataclass, field

from squeezetune.errors import SettingsError
from squeezetune.serving.refusals import Refusal

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
                f"the token has {len(self.token)} characters; needed are {MIN_TOKEN_LENGTH} or more", _HINT
            )

    def check(self, authorization: str | None) -> None:
        """Compare a request's Authorization header with the token, in a time that tells nothing of it.

        Raises:
            Refusal: it is missing, or another one.

        """
        if self.token is None:
            return
        scheme, _, shown = (authorization or "").partition(" ")
        is_right = hmac.compare_digest(shown.strip().encode(errors="replace"), self.token.encode())
        if scheme.lower() != "bearer" or not is_right:
            raise Refusal("no-token", "This server asks for a token, and the request shows none or a wrong one",
                          "Send it as a header: Authorization: Bearer TOKEN")  # fmt: skip


_HINT = "Make one: python3 -c 'import secrets; print(secrets.token_urlsafe())'"
