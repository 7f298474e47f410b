"""A folder of photos becomes an accurate image classifier in minutes, on a computer without a GPU.

The public names are loaded on first use, so that `import squeezetune` costs next to nothing; they
are listed once, in `__init__.pyi`.
"""

import importlib


def _list_homes() -> dict[str, str]:
    """Read where each public name is: a line each, `from module import name as name`."""
    stub = __spec__.loader.get_data(f"{__path__[0]}/__init__.pyi").decode()
    found = [line.split() for line in stub.splitlines() if line.startswith("from ")]
    return {name: module for _, module, _, name, *_ in found}


_HOMES = _list_homes()
__all__ = sorted(_HOMES)


def __getattr__(name: str) -> object:
    if name == "__version__":
        return importlib.import_module("importlib.metadata").version("squeezetune")
    if name not in _HOMES:
        raise AttributeError(f"module 'squeezetune' has no attribute {name!r}")
    value = getattr(importlib.import_module(_HOMES[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return [*__all__, "__version__"]
