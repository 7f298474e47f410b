"""A page's model in Node.js: what it answers, and what is said where it cannot."""

import subprocess

import numpy as np
import pytest
from PIL import Image

from squeezetune.errors import ExportError
from squeezetune.exporting import node
from squeezetune.exporting.exports import export
from squeezetune.exporting.node import OLDEST, NodeModel, explain_missing_node, reduce_pixels
from squeezetune.exporting.runtimes import open_onnx


@pytest.fixture
def forget_node():
    """Look for Node.js anew, before and after."""
    explain_missing_node.cache_clear()
    yield
    explain_missing_node.cache_clear()


@pytest.fixture(scope="module")
def page(model_folder, web_runtime, tmp_path_factory):
    folder = tmp_path_factory.mktemp("node") / "export"
    return export(model_folder, ["web"], folder, measure=False, runtime=web_runtime).find_path(
        "web"
    )


@pytest.fixture
def needs_node():
    if reason := explain_missing_node():
        pytest.skip(f"the page's model was not run: {reason}")


@pytest.mark.usefixtures("needs_node")
def test_the_shipped_files_answer_as_python_does(page):
    run, expected = NodeModel(page), open_onnx(page.with_name("model.onnx"))
    for shape in ((1, 64, 64, 3), (3, 40, 90, 3), (2, 1, 7, 3)):
        images = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)
        np.testing.assert_allclose(run(images), expected(images), atol=1e-4)
    assert run.peak_mb > 20


@pytest.mark.slow
@pytest.mark.usefixtures("needs_node")
def test_huge_images_are_reduced_as_on_the_page(page):
    image = np.asarray(Image.radial_gradient("L").convert("RGB").resize((2101, 2003)))
    found = NodeModel(page)(image[None])
    expected = open_onnx(page.with_name("model.onnx"))(
        np.asarray(Image.fromarray(image).reduce(2))[None]
    )
    np.testing.assert_allclose(found, expected, atol=1e-4)


@pytest.mark.parametrize(
    ("size", "factor"),
    [((100, 100), 1), ((200, 200), 2), ((399, 400), 4), ((4000, 90), 4), ((9000, 9000), 8)],
)
def test_images_are_reduced_to_so_many_pixels_but_never_below_the_reach(size, factor):
    image = np.zeros((1, *size, 3), np.uint8)
    found = reduce_pixels(image, most_pixels=100 * 100, reach=20)
    assert found.shape == (1, *(-(-length // factor) for length in size), 3)


@pytest.mark.usefixtures("needs_node")
@pytest.mark.parametrize(
    "name", ["model.onnx", "runtime/ort-wasm-simd-threaded.wasm", "runtime/ort.wasm.min.js"]
)
def test_files_that_the_runtime_cannot_use_are_an_error_in_words(page, tmp_path, name):
    for path in (item for item in page.parent.rglob("*") if item.is_file()):
        target = tmp_path / path.relative_to(page.parent)
        target.parent.mkdir(exist_ok=True)
        target.write_bytes(path.read_bytes())
    (tmp_path / name).write_bytes(b"{no such thing")
    with pytest.raises(ExportError, match="the page's runtime cannot run its model: "):
        NodeModel(tmp_path / "index.html")


@pytest.mark.usefixtures("needs_node")
def test_what_takes_too_long_is_ended(page):
    with pytest.raises(ExportError, match=r"Node\.js was not done after 0.001 s"):
        NodeModel(page, limit_s=0.001)


@pytest.mark.usefixtures("needs_node")
def test_a_process_that_ends_is_told(page):
    run = NodeModel(page)
    run._process.kill()
    run._process.wait()
    with pytest.raises(ExportError, match=r"Node\.js has ended: exit status"):
        run(np.zeros((1, 64, 64, 3), np.uint8))


@pytest.mark.usefixtures("forget_node")
def test_a_computer_without_node_says_so(monkeypatch):
    monkeypatch.setattr(node.shutil, "which", lambda name: None)
    assert explain_missing_node() == "that needs Node.js, which is not installed"


@pytest.mark.usefixtures("forget_node")
@pytest.mark.parametrize(
    ("said", "reason"),
    [
        (f"v{OLDEST}.0.0\n", ""),
        ("v12.22.9\n", f"that needs Node.js {OLDEST} or newer, and v12.22.9 is installed"),
        ("", f"that needs Node.js {OLDEST} or newer, and another program is installed"),
    ],
)
def test_an_old_node_is_told(monkeypatch, said, reason):
    monkeypatch.setattr(node.shutil, "which", lambda name: "/bin/node")
    monkeypatch.setattr(
        node.subprocess, "run", lambda *words, **how: subprocess.CompletedProcess(words, 0, said)
    )
    assert explain_missing_node() == reason
