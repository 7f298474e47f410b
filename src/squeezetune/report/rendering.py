"""Self-contained HTML pages: templates in which every value is escaped, and pictures within the
page.
"""

import re
from base64 import b64encode
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any, TypeAlias

from jinja2 import Environment, FileSystemLoader, StrictUndefined, Template

from squeezetune.quantities import (
    UNKNOWN,
    format_points,
    format_share,
    format_size,
    format_time_taken,
)

Json: TypeAlias = Mapping[str, Any]
# File names may hold control characters or bytes that are no UTF-8 (lone surrogates); HTML may not.
_UNPRINTABLE = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\ud800-\udfff]")


def render_page(name: str, **values: Any) -> str:
    """Render the template of this name, by its path in the package; every value in it is
    escaped.
    """
    return _UNPRINTABLE.sub("\ufffd", _load_template(name).render(**values))


def _keep_together(write: Callable[..., str]) -> Callable[..., str]:
    """Write as this does, with spaces at which no line ends."""
    return lambda *values: write(*values).replace(" ", "\u00a0")


def format_range(interval: Sequence[float] | None) -> str:
    """Write an interval of shares as one range of percentages."""
    if interval is None:
        return UNKNOWN
    low, high = (format_share(share) for share in interval)
    return f"{low.removesuffix(' %')}–{high}".replace(" ", "\u00a0")


def format_number(number: float | None) -> str:
    """Write a whole number with its thousands apart."""
    return UNKNOWN if number is None else f"{number:,.0f}"


def format_times(count: int) -> str:
    """Write how often something happened."""
    return {1: "once", 2: "twice"}.get(count, f"{count:,} times")


def format_setting(value: object) -> str:
    """Write the value of a setting; an empty one is still seen."""
    return UNKNOWN if value is None or value == "" else str(value)


def embed_picture(picture: bytes | None, kind: str = "jpeg") -> str:
    """Write a JPEG, or a picture of another kind, as the address of an image; empty where there is
    none.
    """
    return f"data:image/{kind};base64,{b64encode(picture).decode()}" if picture else ""


FILTERS: Mapping[str, Callable[..., str]] = {
    "percent": _keep_together(format_share),
    "points": lambda *values: format_points(*values).replace("-", "−"),
    "range": format_range,
    "number": format_number,
    "duration": _keep_together(format_time_taken),
    "size": _keep_together(format_size),
    "times": format_times,
    "setting": format_setting,
    "embedded": embed_picture,
}


@cache
def _load_template(name: str) -> Template:
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parents[1]),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= FILTERS
    return environment.get_template(name)
