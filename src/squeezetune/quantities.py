"""Times and sizes as people write them, `90s`, `1h30m`, `600MB`, the limits of numbers, and how
times, sizes and shares are written for people.
"""

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass

_PART = re.compile(r"([0-9]+(?:\.[0-9]+)?|\.[0-9]+)\s*([a-z]+)")
_NUMBER = re.compile(r"[0-9]+(\.[0-9]+)?|\.[0-9]+")


@dataclass(frozen=True)
class Quantity:
    """What is written: `units` are the names of each unit and what it stands for, in seconds or
    bytes.

    `examples` tells people what to write, and `completed` what a bare number, `{}`, may have meant.
    """

    name: str
    units: Mapping[str, float]
    examples: str
    completed: str
    least: float
    end: float

    def read(self, text: str) -> float | None:
        """Read numbers with their units, each unit once and larger ones first; None if it is
        nothing of that kind.
        """
        text = text.lower()
        parts = _PART.findall(text)
        if (
            not parts
            or _PART.sub("", text).strip()
            or any(unit not in self.units for _, unit in parts)
        ):
            return None
        sizes = [self.units[unit] for _, unit in parts]
        if sizes != sorted(set(sizes), reverse=True):
            return None
        total = sum(float(number) * size for (number, _), size in zip(parts, sizes, strict=True))
        return total if self.least <= total < self.end else None

    def explain(self, text: str) -> str:
        """Say why a text is no such quantity and what to write instead; nothing where it is one."""
        if self.read(text) is not None:
            return ""
        number = text.strip()
        if _NUMBER.fullmatch(number) and float(number):
            return (
                f", which has no unit; needed is a {self.name} such as "
                f"{self.completed.replace('{}', number)}"
            )
        return f"; needed is a {self.name} such as {self.examples}"


def _name_units(*units: tuple[str, float]) -> dict[str, float]:
    """Give each of the names, separated by spaces, what its unit stands for."""
    return {name: size for names, size in units for name in names.split()}


TIME = Quantity(
    "time",
    _name_units(
        ("h hr hrs hour hours", 3600.0),
        ("m min mins minute minutes", 60.0),
        ("s sec secs second seconds", 1.0),
    ),
    "90s, 10m or 1h30m, above 0",
    "{}s, {}m or {}h",
    least=1e-3,
    end=1e12,
)
SIZE = Quantity(
    "size",
    _name_units(
        *((f"{letter} {letter}b", 1000.0**power) for power, letter in enumerate("kmgt", 1)),
        *((f"{letter}i {letter}ib", 1024.0**power) for power, letter in enumerate("kmgt", 1)),
        ("b byte bytes", 1.0),
    ),
    "600MB, 1GB or 1.5GB, above 0",
    "{}MB or {}GB",
    least=1,
    end=2.0**63,
)


def parse_duration(text: str) -> float | None:
    """Read a time such as 90s, 10 min or 1h30m as seconds; None if it is none, or has no unit.

    >>> parse_duration("1h30m")
    5400.0
    """
    return TIME.read(text)


def parse_size(text: str) -> int | None:
    """Read a size such as 600MB, 1.5 GB or 1GiB as bytes; None if it is none, or has no unit.

    >>> parse_size("1.5GB")
    1500000000
    """
    size = SIZE.read(text)
    return None if size is None else int(size)


def judge_number(
    name: str, value: float, low: float = 0, high: float = math.inf, *, is_open: bool = False
) -> str:
    """Say what is wrong with a number that somebody gave; nothing where it is right.

    It has to be finite and from `low` to `high`; with `is_open`, more than `low`.

    >>> judge_number("max_time", math.inf, is_open=True)
    'max_time is inf; needed is a finite number of more than 0'
    """
    is_finite = -math.inf < value < math.inf  # `math.isfinite` fails at whole numbers of 309 digits
    if is_finite and low <= value <= high and not (is_open and value == low):
        return ""
    start = "more than " if is_open else ""
    limits = (
        f"{start}{low:g} to {high:,.12g}"
        if high < math.inf
        else f"{start}{low:g}{'' if is_open else ' or more'}"
    )
    shown = (
        value
        if abs(value) < 1e15 or not is_finite
        else f"{value:g}"
        if abs(value) < 1e300
        else "beyond 1e300"
    )
    return f"{name} is {shown}; needed is {limits if is_finite else f'a finite number of {limits}'}"


UNKNOWN = "–"


def format_share(share: float | None) -> str:
    """Write a share as per cent; only what is really all or nothing reads 100 % or 0 %.

    >>> format_share(0.9968), format_share(0.99999), format_share(1), format_share(None)
    ('99.7 %', '99.9 %', '100 %', '–')
    """
    if share is None:
        return UNKNOWN
    if not 0 < share < 1:
        return "0 %" if share <= 0 else "100 %"
    return f"{min(max(100 * share, 0.1), 99.9):.1f} %"


def format_points(share: float, digits: int = 2) -> str:
    """Write a difference of shares in points, with its sign; nothing has none.

    >>> format_points(-0.0002), format_points(-0.0002, 1), format_points(0.01, 1)
    ('-0.02', '0.0', '+1.0')
    """
    points = round(100 * share, digits)
    return f"{points:+.{digits}f}" if points else f"{0:.{digits}f}"


def format_duration(seconds: float) -> str:
    """Write a duration that is forecast or left, e.g. 40 s, 3 min 10 s or 1 h 2 min."""
    whole = max(1, round(seconds))
    if whole >= 3600:
        return f"{whole // 3600} h {whole % 3600 // 60} min"
    return f"{whole // 60} min {whole % 60} s" if whole >= 60 else f"{whole} s"


def format_time_taken(seconds: float | None) -> str:
    """Write a duration that was measured, e.g. 0.4 s, 3 min or 2 h 5 min."""
    if seconds is None:
        return UNKNOWN
    if seconds < 99.95:
        return f"{seconds:.1f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 100 else f"{minutes // 60} h {minutes % 60} min"


def format_clock(seconds: float) -> str:
    """Write a duration as a clock does, e.g. 0:42 or 1:02:03."""
    minutes, rest = divmod(round(seconds), 60)
    return (
        f"{minutes // 60}:{minutes % 60:02}:{rest:02}" if minutes >= 60 else f"{minutes}:{rest:02}"
    )


def format_size(size_bytes: float | None) -> str:
    """Write how large a file is, in kB or MB."""
    if size_bytes is None:
        return UNKNOWN
    return f"{size_bytes / 1e6:,.1f} MB" if size_bytes >= 1e6 else f"{size_bytes / 1e3:.0f} kB"
