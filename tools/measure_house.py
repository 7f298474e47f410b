"""Measure trees of source beside each other, with `python tools/measure_house.py [CHECKOUT ...]`.

Rows are those of the list LAYERS in a checkout's own `tests/test_layers_of_modules.py`; modules of
one package have one row. The longest chain counts modules, each imported by the one before. A
training on a few drawn images is traced in a process of its own. Of its calls from one module to
another each counts once, however often its place in the code is passed:

- A climb is a call from a lower row up to a higher one, be it of a callback or of a generator.
- A re-entry is a call into a module that had been entered before: there are as many as such
  places, less one for every module that was entered.
"""

import argparse
import ast
import io
import json
import os
import subprocess
import sys
import tempfile
import tokenize
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

PACKAGE = "squeezetune"
LONG_FUNCTION, SMALL_MODULE, WIDTH = 25, 80, 100
NO_CODE = {tokenize.COMMENT, tokenize.NL, tokenize.NEWLINE, tokenize.INDENT, tokenize.DEDENT}
# Trains as a user does, and prints every place from which one module calls another.
TRACED = """
import json, sys, threading
from pathlib import Path
import numpy as np
from PIL import Image
from squeezetune import Settings, train
source, work, places = sys.argv[1], Path(sys.argv[2]), {}
def trace(frame, event, argument):
    called, caller = frame.f_code, frame.f_back
    while caller and not caller.f_code.co_filename.startswith(source):
        caller = caller.f_back
    if event == "call" and called.co_filename.startswith(source) and caller:
        if "<module>" not in (called.co_name, caller.f_code.co_name):  # what an import runs
            places[caller.f_code.co_filename, caller.f_lineno, called.co_filename] = None
for number in range(40):
    path = work / "photos" / str(number % 2) / f"{number}.png"
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(number).integers(0, 128, (64, 64, 3)) + 128 * (number % 2)
    Image.fromarray(pixels.astype(np.uint8)).save(path)
settings = Settings(image_side=64, engine="onnxruntime", precision="float32", layers="head",
                    threads=2, folds="none")
threading.setprofile(trace)
sys.setprofile(trace)
train(work / "photos", work / "model", settings)
sys.setprofile(None)
print(json.dumps(list(places)))
"""


class House:
    """The modules of a checkout, by their dotted names within the package."""

    def __init__(self, checkout: Path) -> None:
        self.checkout, self.source = checkout, checkout / "src" / PACKAGE
        paths = sorted(self.source.rglob("*.py"))
        self.texts = {self.name_module(path): path.read_text() for path in paths}
        self.trees = {name: ast.parse(text) for name, text in self.texts.items()}

    def name_module(self, path: Path | str) -> str:
        """Name the module that a file holds; a package by its `__init__`."""
        return ".".join(Path(path).relative_to(self.source).with_suffix("").parts)

    def list_imports(self, module: str) -> set[str]:
        """List the package's own modules that a module imports, within functions too."""
        found = set()
        for node in ast.walk(self.trees[module]):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            if isinstance(node, ast.ImportFrom):
                names = [f"{node.module}.{alias.name}" for alias in node.names]
            for name in names:
                parts = name.removeprefix(PACKAGE).split(".")[1:]
                prefixes = (".".join(parts[:length]) for length in range(len(parts), 0, -1))
                found.add(next((each for each in prefixes if each in self.trees), ""))
        return found - {"", module}


def read_rows(checkout: Path) -> dict[str, int]:
    """Read which row, from the top, a package or a root module stands in."""
    page = ast.parse((checkout / "tests" / "test_layers_of_modules.py").read_text())
    [rows] = [
        ast.literal_eval(node.value)
        for node in page.body
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "LAYERS"
    ]
    sets = ({names} if isinstance(names, str) else names for names in rows)
    return {name: at for at, names in enumerate(sets) for name in names}


def measure_lines(house: House) -> dict[str, int]:
    """Count modules and lines; code lines have neither comments nor docstrings alone."""
    lines = [line for text in house.texts.values() for line in text.splitlines()]
    return {
        "modules": len(house.trees),
        "modules in the root": sum("." not in name for name in house.trees),
        "lines": len(lines),
        "code lines": sum(map(count_code_lines, house.texts.values(), house.trees.values())),
        f"lines over {WIDTH} columns": sum(len(line) > WIDTH for line in lines),
    }


def count_code_lines(text: str, tree: ast.Module) -> int:
    """Count the lines that are neither empty nor comments nor docstrings."""
    found = set[int]()
    for token in tokenize.generate_tokens(io.StringIO(text).readline):
        if token.type not in NO_CODE and token.string:
            found |= set(range(token.start[0], token.end[0] + 1))
    for node in ast.walk(tree):
        if isinstance(node, ast.Expr) and isinstance(getattr(node.value, "value", None), str):
            found -= set(range(node.lineno, (node.end_lineno or 0) + 1))
    return len(found)


def measure_imports(house: House) -> dict[str, int]:
    """Count the layers' rows, the longest chain of imports, and modules with one importer."""
    graph = {name: house.list_imports(name) for name in house.trees if name != "__init__"}
    importers = Counter(target for targets in graph.values() for target in targets)
    alone = [len(house.texts[name].splitlines()) for name, n in importers.items() if n == 1]
    lengths = dict[str, int]()

    def measure_chain(module: str) -> int:
        if module not in lengths:
            lengths[module] = 1 + max(map(measure_chain, graph.get(module, ())), default=0)
        return lengths[module]

    return {
        "rows of layers": len(set(read_rows(house.checkout).values())),
        "longest chain of imports": max(map(measure_chain, graph)),
        "modules with one importer": len(alone),
        f"of these under {SMALL_MODULE} lines": sum(lines < SMALL_MODULE for lines in alone),
    }


def measure_names(house: House) -> dict[str, int]:
    """Count names that stand for two things, dataclasses, and long functions."""
    stems = Counter(name.rpartition(".")[2] for name in house.trees)
    del stems["__init__"]
    nodes = [node for tree in house.trees.values() for node in ast.walk(tree)]
    classes = [node for node in nodes if isinstance(node, ast.ClassDef)]
    types = Counter(node.name for node in classes if not node.name.startswith("_"))
    marks = [ast.unparse(mark) for node in classes for mark in node.decorator_list]
    bodies = [
        node.body[1:] if ast.get_docstring(node) else node.body
        for node in nodes
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
    ]
    lengths = [(body[-1].end_lineno or 0) - body[0].lineno + 1 for body in bodies if body]
    return {
        "names of modules twice": sum(count > 1 for count in stems.values()),
        "names of public types twice": sum(count > 1 for count in types.values()),
        "dataclasses": sum(mark.startswith("dataclass") for mark in marks),
        f"functions over {LONG_FUNCTION} lines": sum(n > LONG_FUNCTION for n in lengths),
    }


def measure_training(house: House) -> dict[str, int]:
    """Count the re-entries and climbs of a small training, as the top of this file defines them."""
    with tempfile.TemporaryDirectory() as work:
        own = {"PYTHONPATH": str(house.source.parent), "SQUEEZETUNE_CACHE": f"{work}/cache"}
        command = [sys.executable, "-c", TRACED, str(house.source), work]
        done = subprocess.run(command, env=os.environ | own, stdout=subprocess.PIPE, check=True)
    places = json.loads(done.stdout.splitlines()[-1])
    calls = [
        (house.name_module(caller), house.name_module(called))
        for caller, _, called in places
        if caller != called and {Path(caller).suffix, Path(called).suffix} == {".py"}
    ]
    rows = read_rows(house.checkout)
    steps = [[rows[module.partition(".")[0]] for module in call] for call in calls]
    return {
        "re-entries of a training": len(calls) - len({called for _, called in calls}),
        "climbs of a training": sum(caller > called for caller, called in steps),
    }


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description="Measure trees of source beside each other.")
    parser.add_argument("checkouts", nargs="*", type=Path, default=[Path(__file__).parents[1]])
    houses = [House(path.resolve()) for path in parser.parse_args(argv).checkouts]
    measures = (measure_lines, measure_imports, measure_names, measure_training)
    columns = [dict(item for measure in measures for item in measure(house).items())
               for house in houses]  # fmt: skip
    print("| |" + "".join(f" {house.checkout.name} |" for house in houses))
    print("|---|" + "---:|" * len(houses))
    for name in columns[0]:
        print(f"| {name} |" + "".join(f" {column[name]:,} |" for column in columns))


if __name__ == "__main__":
    main()
