"""The page on the design shows the house as it is."""

import importlib.util
from pathlib import Path

ROOT = Path(__file__).parents[1]
SPEC = importlib.util.spec_from_file_location("draw_house", ROOT / "tools" / "draw_house.py")
draw_house = importlib.util.module_from_spec(SPEC)
SPEC.loader.exec_module(draw_house)


def test_the_drawing_is_that_of_the_modules():
    page = draw_house.PAGE.read_text()
    drawn = draw_house.draw_house()
    assert drawn in page, "Draw it again: python tools/draw_house.py --write"
    assert drawn.count(".py ") > 100


def test_every_module_is_drawn_in_one_line_that_fits():
    lines = draw_house.draw_house().split("\n")
    assert max(map(len, lines)) <= draw_house.WIDTH
    assert all(line[: draw_house.COLUMN].strip() or line.strip() for line in lines)
