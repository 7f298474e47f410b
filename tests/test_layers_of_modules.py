"""The architecture: which module may import which, where torch may be, and what the package
shows.
"""

import ast
import importlib
import json
import re
import subprocess
import sys
from collections import defaultdict
from functools import cache
from pathlib import Path

import pytest

import squeezetune

SOURCE = Path(squeezetune.__file__).parent
# Top to bottom. A package imports from lower rows only; those of one row do not know each other.
LAYERS = [
    {"__main__"},
    {"cli"},
    {"watching"},
    {"training", "audit", "exporting"},
    {"report", "integrations", "serving"},
    {"pipeline"},
    {"planning", "evaluation", "compression"},
    {"model", "finetune"},
    {"network"},
    {"heads"},
    {"data"},
    {"system"},
    {"settings"},
    {"events"},
    {"errors", "quantities", "array_types", "foreign_settings"},
]
# The same within a package; "" are its own modules.
INSIDE = {"data": ["duplicates", "", "datasets", "sources"]}
RULE = "Imports only go down: " + " > ".join(" | ".join(sorted(row)) for row in LAYERS)
MAY_IMPORT_TORCH = {"compression.distillation", "network.torch_export", "network.torch_file"} | {
    f"exporting.{name}"
    for name in ("copied.network", "copied.squeezenet", "runtimes", "torch_program")
}
SLOW_TO_IMPORT = {"onnxruntime", "onnx", "openvino", "ai_edge_litert", "torch"}
SLOW_TO_IMPORT |= {"sklearn", "scipy", "matplotlib", "numpy", "PIL"}


def name_module(path):
    return ".".join(path.relative_to(SOURCE).with_suffix("").parts)


TEXTS = {name_module(path): path.read_text() for path in sorted(SOURCE.rglob("*.py"))}
MODULES = {name: ast.parse(text) for name, text in TEXTS.items()}
# the front door loads names on first use, from anywhere
WALKED = {name: tree for name, tree in MODULES.items() if name != "__init__"}


# torch lives in `finetune`, but for its numbers
MAY_IMPORT_TORCH |= {
    name for name in MODULES if name.startswith("finetune.") and name != "finetune.recipe"
}
NEED_TORCH = [
    name
    for name, home in squeezetune._HOMES.items()
    if home.removeprefix("squeezetune.") in MAY_IMPORT_TORCH
]


@cache
def list_imports(tree):
    """List the full names of all that a module imports, also within functions."""
    found = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, "relative import"
            found += [f"{node.module}.{alias.name}" for alias in node.names]
    return found


def list_own_imports(tree):
    """List the modules of this package that a module imports, by their names in `MODULES`."""
    found = set()
    for name in list_imports(tree):
        if name.split(".")[0] == "squeezetune":
            parts = name.split(".")[1:]
            prefixes = [".".join(parts[:length]) for length in range(len(parts), 0, -1)]
            found.add(next((prefix for prefix in prefixes if prefix in MODULES), "__init__"))
    return found


def find_row(module):
    """Find the row of a module among the layers, and among those within its package."""
    package, *rest = module.split(".")
    row = next((at for at, packages in enumerate(LAYERS) if package in packages), None)
    inside = INSIDE.get(package)
    return row, inside.index(rest[0] if len(rest) > 1 else "") if inside else 0


def run_python(code):
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


# ---- imports


def test_every_module_has_its_layer():
    homeless = [module for module in WALKED if find_row(module)[0] is None]
    assert not homeless, f"Give them a place among the layers. {RULE}"


def goes_down(module, target):
    """Say whether an import stays in a package's own rows, or goes to a row below."""
    if target == "__init__":  # the front door
        return False
    own, other = find_row(module), find_row(target)
    is_within = module.split(".")[0] == target.split(".")[0]
    return own <= other if is_within else own[0] < other[0]


def test_imports_only_go_down():
    wrong = [
        f"{module} imports {target}"
        for module, tree in WALKED.items()
        for target in sorted(list_own_imports(tree))
        if not goes_down(module, target)
    ]
    assert not wrong, f"{RULE}; within: {INSIDE}"


def test_there_are_no_cycles():
    graph = {module: list_own_imports(tree) for module, tree in WALKED.items()}
    while leaves := {module for module, targets in graph.items() if not targets & set(graph)}:
        graph = {module: targets for module, targets in graph.items() if module not in leaves}
    assert graph == {}, f"These modules import each other in a circle: {sorted(graph)}. {RULE}"


def find_importers(packages):
    """Find the modules that import any of these packages, each with what it imports of them."""
    return {
        module: sorted(found)
        for module, tree in MODULES.items()
        if (found := {name.split(".")[0] for name in list_imports(tree)} & packages)
    }


def test_torch_is_imported_where_it_may_be_only():
    assert not set(find_importers({"torch", "torchvision", "timm"})) - MAY_IMPORT_TORCH


@pytest.mark.parametrize(
    ("package", "home"), [("sklearn", "integrations.estimator"), ("matplotlib", "report.plots")]
)
def test_what_only_an_extra_brings_is_imported_in_one_place(package, home):
    assert list(find_importers({package})) == [home]


def test_runtimes_that_report_are_imported_through_their_door_only():
    assert find_importers({"onnxruntime", "openvino"}) == {}


def test_no_module_reads_or_writes_pickles():
    picklers = {"pickle", "joblib", "dill", "cloudpickle", "shelve", "marshal"}
    assert find_importers(picklers) == {}
    assert not [name for name, text in TEXTS.items() if "allow_pickle=True" in text]


def test_modules_are_named_by_a_noun():
    vague = {"utils", "util", "common", "helpers", "misc", "base"}
    assert not [module for module in MODULES if set(module.split(".")) & vague]


def test_every_module_says_what_it_is():
    silent = [module for module, tree in MODULES.items() if not ast.get_docstring(tree)]
    assert silent in ([], ["__main__"])


# ---- names

# programs that users copy, whose names are for them
COPIED = "exporting.copied."


def list_public_types(tree):
    """List the classes of a module, and its aliases of types."""
    for node in tree.body:
        if isinstance(node, ast.ClassDef):
            yield node.name
        elif isinstance(node, ast.AnnAssign) and ast.unparse(node.annotation) == "TypeAlias":
            yield node.target.id
        elif isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name):
            name = node.targets[0].id
            if re.fullmatch("[A-Z][a-z]+([A-Z][a-z]+)*", name):
                yield name


def find_homes(names_of):
    """Find the modules of every name, without those names that begin with an underscore."""
    homes = defaultdict(list)
    for module, tree in MODULES.items():
        for name in () if module.startswith(COPIED) else names_of(module, tree):
            if not name.startswith("_"):
                homes[name].append(module)
    return {name: modules for name, modules in homes.items() if len(modules) > 1}


def test_no_two_modules_have_one_name():
    assert find_homes(lambda module, _: [module.rpartition(".")[2]]) == {}


def test_no_two_types_have_one_name():
    assert find_homes(lambda _, tree: list_public_types(tree)) == {}


# ---- the front door


def test_public_names_are_those_that_type_checkers_see_each_once():
    stub = ast.parse((SOURCE / "__init__.pyi").read_text())
    found = [node for node in stub.body if isinstance(node, ast.ImportFrom)]
    names = {alias.asname: node.module for node in found for alias in node.names}
    assert names == squeezetune._HOMES
    assert len(names) == sum(len(node.names) for node in found)
    assert squeezetune.__all__ == sorted(names)
    assert all(alias.name == alias.asname for node in found for alias in node.names)


@pytest.mark.parametrize("name", squeezetune.__all__)
def test_every_public_name_can_be_had(name):
    if name in NEED_TORCH:
        pytest.importorskip("torch", reason=f"{name} needs torch, an extra")
    if name == "SqueezeTuneClassifier":
        pytest.importorskip("sklearn", reason="it is an estimator of scikit-learn, an extra")
    value = getattr(squeezetune, name)
    home = squeezetune._HOMES[name]
    assert value is getattr(importlib.import_module(home), name)
    assert value.__module__ == home
    assert value.__doc__


def test_the_estimator_says_what_it_needs():
    hide = "import sys; sys.modules['sklearn'] = None\nimport squeezetune\n"
    shown = run_python(
        f"{hide}try: squeezetune.SqueezeTuneClassifier\n"
        "except squeezetune.MissingExtraError as error: print(error, error.hint)"
    )
    assert "scikit-learn is not installed" in shown
    assert "pip install 'squeezetune[sklearn]'" in shown


@pytest.mark.parametrize("name", NEED_TORCH)
def test_a_public_name_that_needs_torch_says_how_to_install_it(name):
    hide = "import sys; sys.modules['torch'] = None\nimport squeezetune\n"
    ask = f"try: squeezetune.{name}\nexcept squeezetune.MissingExtraError as error: print(error)"
    shown = run_python(hide + ask)
    assert "torch is not installed" in shown
    assert "pip install torch --index-url https://download.pytorch.org/whl/cpu" in shown
    assert "pip install 'squeezetune[deep]'" in shown


def test_the_package_knows_its_version_and_its_names():
    assert re.fullmatch(r"\d+\.\d+\.\d+.*", squeezetune.__version__)
    assert set(dir(squeezetune)) == {*squeezetune.__all__, "__version__"}
    with pytest.raises(AttributeError, match="no attribute 'trainn'"):
        squeezetune.trainn  # noqa: B018


def test_a_public_function_is_not_hidden_by_its_module():
    code = (
        "import squeezetune, squeezetune.training as t; assert squeezetune.train is t.train; "
        "print(1)"
    )
    assert run_python(code) == "1\n"


# ---- what the front doors cost

LOADED = "import json, sys; print(json.dumps(sorted({name.split('.')[0] for name in sys.modules})))"
HELP = """
import contextlib, io, runpy, sys
sys.argv = ["squeezetune", "--help"]
with contextlib.redirect_stdout(io.StringIO()) as help, contextlib.suppress(SystemExit):
    runpy.run_module("squeezetune", run_name="__main__")
assert "Usage" in help.getvalue()
"""


IMPORT = "import squeezetune; squeezetune.__all__, dir(squeezetune)"


@pytest.mark.parametrize("door", [IMPORT, HELP], ids=["import", "help"])
def test_a_front_door_loads_nothing_heavy(door):
    loaded = set(json.loads(run_python(f"{door}\n{LOADED}")))
    assert "squeezetune" in loaded
    assert not loaded & SLOW_TO_IMPORT


def test_loading_a_model_and_predicting_needs_little(model_folder, shape_folder):
    photo = next(shape_folder.rglob("*.png"))
    predict = f"squeezetune.load({str(model_folder)!r}).predict({str(photo)!r})"
    code = f"import squeezetune; {predict}\n{LOADED}"
    loaded = set(json.loads(run_python(code)))
    assert "onnxruntime" in loaded
    assert not loaded & {
        "sklearn",
        "scipy",
        "onnx",
        "matplotlib",
        "torch",
        "openvino",
        "jinja2",
        "click",
    }


def test_a_manifest_can_be_read_without_onnx_runtime(model_folder):
    code = (
        f"import squeezetune; assert squeezetune.load({str(model_folder)!r}).class_names\n{LOADED}"
    )
    assert "onnxruntime" not in json.loads(run_python(code))
