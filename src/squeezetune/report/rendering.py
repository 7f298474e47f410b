"""Self-contained HTML pages: templates in which every value is escaped, and pictures within the
page.
"""

import re
from base64 import b64encode
from collections.abc import Callable, Mapping
from functools import cache
from pathlib import Path
from typing import Any, TypeAlias

from jinja2 import Environment, FileSystemLoader, StrictUndefined, Template

Json: TypeAlias = Mapping[str, Any]
# File names may hold control characters or bytes that are no UTF-8 (lone surrogates); HTML may not.
_UNPRINTABLE = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\ud800-\udfff]")


def render_page(name: str, filters: Mapping[str, Callable[..., Any]], **values: Any) -> str:
    """Render the template of this name, by its path in the package; every value in it is
    escaped.
    """
    template = _load_template(name, tuple(filters.items()))
    return _UNPRINTABLE.sub("\ufffd", template.render(**values))


@cache
def _load_template(name: str, filters: tuple[tuple[str, Callable[..., Any]], ...]) -> Template:
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parents[1]),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= dict(filters)
    return environment.get_template(name)


def embed_picture(picture: bytes | None, kind: str = "jpeg") -> str:
    """Write a JPEG, or a picture of another kind, as the address of an image; empty where there is
    none.
    """
    return f"data:image/{kind};base64,{b64encode(picture).decode()}" if picture else ""
