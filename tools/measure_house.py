"""Measure trees of source beside each other: modules, imports, names, and the way of a training.

python tools/measure_house.py [CHECKOUT ...]

Rows are those of the list LAYERS in a checkout's own `tests/test_layers_of_modules.py`; modules of
one package have one row. A chain of imports counts modules, imports within functions left out. A
training of a few drawn images is traced in a process of its own, calls between modules alone, each
place in the code once, however often it is passed:

- A climb is a call, also of a callback or a generator, from a lower row up to a higher one.
- A re-entry is a call from another module into one that had been left before, that is, from a
  second place on: as many as there are places less the first of every module.
"""

import argparse
import ast
import json
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path

ROOT = Path(__file__).parents[1]
PACKAGE = "squeezetune"
LONG_FUNCTION, SMALL_MODULE, WIDTH = 25, 80, 100
# Trains as a user does, and prints every place from which one module calls another.
TRACED = """
import json, sys, threading
from pathlib import Path
import numpy as np
from PIL import Image
from squeezetune import Settings, train
source, work, places = sys.argv[1], Path(sys.argv[2]), {}
def trace(frame, event, argument):
    name, caller = frame.f_code.co_filename, frame.f_back
    if event != "call" or not name.startswith(source) or frame.f_code.co_name == "<module>":
        return
    while caller and not caller.f_code.co_filename.startswith(source):
        caller = caller.f_back
    if caller and caller.f_code.co_filename != name and caller.f_code.co_name != "<module>":
        places[caller.f_code.co_filename, caller.f_lineno, name] = None
rng = np.random.default_rng(0)
for label in ("dark", "light"):
    (work / "photos" / label).mkdir(parents=True)
    for number in range(20):
        pixels = rng.integers(0, 128, (64, 64, 3)) + 128 * (label == "light")
        Image.fromarray(pixels.astype(np.uint8)).save(work / "photos" / label / f"{number}.png")
settings = Settings(image_side=64, engine="onnxruntime", precision="float32", threads=2,
                    layers="head")
threading.setprofile(trace)
sys.setprofile(trace)
train(work / "photos", work / "model", settings)
sys.setprofile(None)
print(json.dumps(list(places)))
"""


def read_modules(source: Path) -> dict[str, ast.Module]:
    """Read every module below a package, by its dotted name within it."""
    return {
        ".".join(path.relative_to(source).with_suffix("").parts): ast.parse(path.read_text())
        for path in sorted(source.rglob("*.py"))
    }


def read_rows(checkout: Path) -> dict[str, int]:
    """Read which row, from the top, a package or a module of the root stands in."""
    page = (checkout / "tests" / "test_layers_of_modules.py").read_text()
    [value] = [
        ast.literal_eval(node.value)
        for node in ast.parse(page).body
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "LAYERS"
    ]
    rows = ({names} if isinstance(names, str) else names for names in value)
    return {name: at for at, names in enumerate(rows) for name in names}


def list_imports(tree: ast.AST, modules: dict[str, ast.Module], is_deep: bool) -> set[str]:
    """List the package's own modules that a module imports, within functions too or at its top."""
    found = set()
    for node in ast.walk(tree) if is_deep else ast.iter_child_nodes(tree):
        names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
        if isinstance(node, ast.ImportFrom):
            names = [f"{node.module}.{alias.name}" for alias in node.names]
        for name in names:
            parts = name.split(".")[1:] if name.startswith(f"{PACKAGE}.") else []
            prefixes = (".".join(parts[:length]) for length in range(len(parts), 0, -1))
            found.add(next((prefix for prefix in prefixes if prefix in modules), ""))
    return found - {""}


def find_longest_chain(graph: dict[str, set[str]]) -> int:
    """Count the modules of the longest chain of imports."""
    lengths: dict[str, int] = {}

    def measure(module: str) -> int:
        if module not in lengths:
            lengths[module] = 1 + max((measure(target) for target in graph[module]), default=0)
        return lengths[module]

    return max(map(measure, graph))


def list_public_types(tree: ast.Module) -> Iterator[str]:
    """Yield the public classes of a module."""
    for node in tree.body:
        if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
            yield node.name


def count_code_lines(text: str, tree: ast.Module) -> int:
    """Count the lines that code stands on: neither empty ones nor comments nor docstrings."""
    lines = set()
    for token in tokenize.generate_tokens(io.StringIO(text).readline):
        if token.type not in NO_CODE and token.string.strip():
            lines |= set(range(token.start[0], token.end[0] + 1))
    for node in ast.walk(tree):
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant):
            lines -= set(range(node.lineno, (node.end_lineno or 0) + 1))
    return len(lines)


def measure_function(node: ast.FunctionDef | ast.AsyncFunctionDef) -> int:
    """Count the lines of a function's body, without its docstring."""
    body = node.body[1:] if ast.get_docstring(node) else node.body
    return (body[-1].end_lineno or 0) - body[0].lineno + 1 if body else 0


def trace_training(source: Path) -> list[tuple[str, str]]:
    """Train, and list the places from which one module called another, in the order of time."""
    with tempfile.TemporaryDirectory() as work:
        done = subprocess.run(
            [sys.executable, "-c", TRACED, str(source), work],
            env=os.environ | {"PYTHONPATH": str(source.parent), "SQUEEZETUNE_CACHE": f"{work}/c"},
            stdout=subprocess.PIPE, check=True, text=True,
        )  # fmt: skip

    def name_module(path: str) -> str:
        return ".".join(Path(path).relative_to(source).with_suffix("").parts)

    places = json.loads(done.stdout.splitlines()[-1])
    return [(name_module(caller), name_module(called)) for caller, _, called in places]


def measure_house(checkout: Path) -> dict[str, int]:
    """Measure one checkout: what is counted -> how many."""
    source = checkout / "src" / PACKAGE
    texts = {path: path.read_text() for path in sorted(source.rglob("*.py"))}
    modules = {name_module(path, source): ast.parse(text) for path, text in texts.items()}
    rows = read_rows(checkout)
    called = trace_training(source)
    return {
        **count_lines(source, texts, modules),
        **count_imports(modules),
        **count_names(modules),
        "rows of layers": len(set(rows.values())),
        "re-entries of `train`": len(called) - len({module for _, module in called}),
        "climbs of `train`": sum(find_row(one, rows) > find_row(two, rows) for one, two in called),
    }
