"""Draw the packages and modules for docs/design.md, each with the first words of its docstring.

python tools/draw_house.py [--write]
"""

import argparse
import ast
import textwrap
from collections.abc import Iterator, Sequence
from pathlib import Path

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs" / "design.md"
BEGIN, END = "<!-- drawn by tools/draw_house.py -->", "<!-- end of the drawing -->"
WIDTH, COLUMN = 100, 32


def read_purpose(path: Path) -> str:
    """Read the first sentence or paragraph of a module's docstring, without its full stop."""
    words = ast.get_docstring(ast.parse(path.read_text())) or "python -m squeezetune"
    return " ".join(words.partition("\n\n")[0].split()).removesuffix(".")


def list_lines(folder: Path, depth: int) -> Iterator[str]:
    """Yield the lines of a package: its own modules first, then the packages in it."""
    modules = sorted(path for path in folder.glob("*.py") if path.stem != "__init__")
    for path in modules:
        yield from draw_line(f"{path.stem}.py", read_purpose(path), depth)
    for inner in sorted(path.parent for path in folder.glob("*/__init__.py")):
        yield from draw_line(f"{inner.name}/", read_purpose(inner / "__init__.py"), depth)
        yield from list_lines(inner, depth + 1)


def draw_line(name: str, purpose: str, depth: int) -> list[str]:
    """Draw a name, and beside it what it is for, over as many lines as that takes."""
    lines = textwrap.wrap(purpose, WIDTH - COLUMN, break_long_words=False, break_on_hyphens=False)
    shown = f"{'    ' * depth}{name}"
    names = [shown if len(shown) < COLUMN else f"{shown} ", *([""] * (len(lines) - 1))]
    return [f"{left:<{COLUMN}}{line}" for left, line in zip(names, lines, strict=True)]


def draw_house() -> str:
    """Draw all of it, between its marks."""
    lines = ["src/squeezetune/", *list_lines(ROOT / "src" / "squeezetune", 1)]
    return "\n".join([BEGIN, "```", *lines, "```", END])


def replace_drawing(page: str) -> str:
    """Put the drawing in the place of the one that a page has."""
    before, _, rest = page.partition(BEGIN)
    return before + draw_house() + rest.partition(END)[2]


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--write", action="store_true", help="put it into docs/design.md")
    if parser.parse_args(argv).write:
        PAGE.write_text(replace_drawing(PAGE.read_text()))
    else:
        print(draw_house())


if __name__ == "__main__":
    main()
