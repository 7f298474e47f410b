import subprocess
import sys

import numpy as np
import pytest
from example_orders import first_network
from odd_images import compare, make_odd_files, make_odd_images, open_model

from squeezetune.data.decoding import open_image

torch = pytest.importorskip("torch", reason="torch is an extra")
from squeezetune.exporting.runtimes import open_torch  # noqa: E402
from squeezetune.exporting.torch_program import write_torch  # noqa: E402

# run where the package cannot be imported
RUN = """
import runpy, sys
sys.modules["squeezetune"] = None
del sys.argv[0]
runpy.run_path(sys.argv[0], run_name="__main__")
"""
IN_PYTHON = """
import sys
sys.modules["squeezetune"] = None
sys.path.insert(0, sys.argv[1])
import numpy, squeezenet, torch
network = squeezenet.load(sys.argv[1])
images = torch.tensor(numpy.load(sys.argv[2]))
with torch.inference_mode():
    numpy.save(sys.argv[3], network(images).numpy())
"""


@pytest.fixture(scope="module")
def folder(order, tmp_path_factory):
    path = tmp_path_factory.mktemp("torch")
    write_torch(order, path / "model.pt2")
    return path


def run_python(*arguments):
    done = subprocess.run(
        [sys.executable, "-c", *map(str, arguments)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@first_network
def test_the_loader_names_the_class_of_each_photo(order, folder, tmp_path):
    classes, model = ["bee", "Kühe", "owl", "<&>"], open_model(order.model)
    expected = []
    # transparent images are left out: what lies under them is for the user of the loader to say
    for at, file in enumerate(
        file for number, file in enumerate(make_odd_files(24, large=0)) if number % 8 < 4
    ):
        (tmp_path / f"{at:02d}.jpg").write_bytes(file)
        [row] = model(np.asarray(open_image(file))[None])
        expected.append((f"{at:02d}.jpg", classes[row.argmax()], row.max()))
    photos = sorted(tmp_path.glob("*.jpg"))
    lines = [
        line.split("\t") for line in run_python(RUN, folder / "squeezenet.py", *photos).splitlines()
    ]
    assert [(name.split("/")[-1], label) for name, label, _ in lines] == [
        (name, label) for name, label, _ in expected
    ]
    np.testing.assert_allclose(
        [float(row[2]) for row in lines], [row[2] for row in expected], atol=0.05
    )


@first_network
def test_the_loader_gives_what_the_program_gives(order, folder, tmp_path):
    images = np.random.default_rng(0).integers(0, 256, (3, 50, 80, 3), dtype=np.uint8)
    np.save(tmp_path / "images.npy", images)
    run_python(IN_PYTHON, folder, tmp_path / "images.npy", tmp_path / "found.npy")
    # where two grey levels are equally near, chance decides in each process
    np.testing.assert_allclose(
        np.load(tmp_path / "found.npy"), open_torch(folder / "model.pt2")(images), atol=2e-3
    )


def test_the_loader_needs_four_packages_only(folder):
    text = (folder / "squeezenet.py").read_text(encoding="utf-8")
    imported = {
        line.split()[1].split(".")[0]
        for line in text.splitlines()
        if line.startswith(("import ", "from "))
    }
    assert imported - set(sys.stdlib_module_names) == {"torch", "safetensors", "numpy", "PIL"}


def test_the_loader_agrees_with_the_model_on_odd_images(order, folder):
    from squeezetune.exporting.copied.squeezenet import load

    network = load(folder)

    def run(images):
        with torch.inference_mode():
            return network(torch.tensor(images)).numpy()

    found = compare(open_model(order.model), run, make_odd_images(64, large=1, seed=1))
    assert found.same_class >= 0.98
    assert found.mean < 0.01
