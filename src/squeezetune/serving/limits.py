"""What a server takes from its clients at most."""

from dataclasses import dataclass, fields

from squeezetune.errors import SettingsError
from squeezetune.settings import judge_number

MB = 1_000_000
MOST = 10**12  # of anything: what is above it can only be a slip


@dataclass(frozen=True)
class Limits:
    """How large, how many and how slow requests may be.

    `held_bytes` is what the bodies of all requests together may take; `waiting` counts images, not requests.

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
        judged = (judge_number(item.name, getattr(self, item.name), 0, MOST, is_open=True) for item in fields(self))
        problems = [problem for problem in judged if problem]
        if not problems and self.waiting < self.images:
            problems.append(f"{self.waiting:,} images may wait, but {self.images:,} may come in one request")
        if not problems and self.held_bytes < 2 * self.body_bytes:  # the parts of a form are copies
            problems.append(f"all requests may hold {self.held_bytes:,} bytes; needed is 2 x {self.body_bytes:,}")
        if problems:
            raise SettingsError(
                "; ".join(problems), "See `squeezetune serve --help` for what each limits, and its default."
            )
