import json
import re
import shutil
import struct
import zlib
from dataclasses import replace
from io import BytesIO

import chromium
import numpy as np
import pytest
from click.testing import CliRunner
from onnx import TensorProto
from PIL import Image
from sessions import open_session
from sklearn.datasets import load_digits
from web_site import serve_folder

from squeezetune.cli.main import main
from squeezetune.data.decoding import open_image
from squeezetune.errors import ExportError
from squeezetune.exporting import node, web
from squeezetune.exporting.export_index import read_exports
from squeezetune.exporting.node import explain_missing_node
from squeezetune.exporting.runtimes import READERS
from squeezetune.exporting.web import FILES, WebAbout, write_web
from squeezetune.model.classifier import load
from squeezetune.network.onnx_builder import Graph
from squeezetune.training import train

ABOUT = WebAbout(
    "Shapes",
    ("box", "disc", "spike"),
    "All of 12 test photos were named right.",
    "BSD-2-Clause",
    64,
)
PAGE_FILES = {
    "index.html",
    "page.css",
    "page.js",
    "worker.js",
    "offline.js",
    "model.onnx",
    "NOTICE.txt",
}
BUILD_FILES = {
    "runtime/ort.wasm.min.js",
    "runtime/ort-wasm-simd-threaded.js",
    "runtime/ort-wasm-simd-threaded.wasm",
}
IS_READY = "document.getElementById('status').textContent === 'Ready.'"


# ---- the files


@pytest.fixture
def any_runtime(monkeypatch):
    """Take something for the web build that is not."""
    monkeypatch.setattr(
        web, "load_runtime", lambda place, listen: {name: name.encode() for name in FILES}
    )


def read_facts(folder):
    page = (folder / "index.html").read_text()
    return json.loads(
        re.search(r'<script type="application/json" id="facts">(.*?)</script>', page)[1]
    )


@pytest.mark.usefixtures("any_runtime")
def test_the_folder_holds_all_that_the_page_needs(tmp_path):
    written = write_web(b"a model", ABOUT, tmp_path / "page")
    names = {path.relative_to(tmp_path / "page").as_posix() for path in written}
    assert names == PAGE_FILES | BUILD_FILES | {
        "runtime/LICENSE.txt",
        "runtime/ThirdPartyNotices.txt",
    }
    assert written[-1] == tmp_path / "page" / "index.html"
    assert (tmp_path / "page" / "model.onnx").read_bytes() == b"a model"
    assert (tmp_path / "page" / "runtime" / "ort.wasm.min.js").read_bytes() == b"ort.wasm.min.mjs"
    assert {path for path in (tmp_path / "page").rglob("*") if path.is_file()} == set(written)


@pytest.mark.usefixtures("any_runtime")
def test_the_page_loads_nothing_from_elsewhere(tmp_path):
    for path in write_web(b"a model", ABOUT, tmp_path):
        if path.suffix in {".html", ".css"} or path.name in {"page.js", "worker.js", "offline.js"}:
            assert not re.findall(
                r"""(?:src|href|url\(|import)\W{1,3}(?:https?:)?//""", path.read_text()
            ), path


@pytest.mark.usefixtures("any_runtime")
def test_the_page_knows_its_classes_whatever_they_are_called(tmp_path):
    names = ("</script><b>", "“ünï”", 'a"b\\')
    about = replace(ABOUT, title="<script>alert(1)</script>", class_names=names, license="<i>")
    write_web(b"a model", about, tmp_path)
    assert read_facts(tmp_path)["classes"] == list(names)
    page = (tmp_path / "index.html").read_text()
    assert "<script>alert" not in page
    assert "<i>" not in page
    assert "BSD-2" not in page


@pytest.mark.usefixtures("any_runtime")
def test_everything_is_kept_for_later_and_changes_together(tmp_path):
    written = write_web(b"a model", ABOUT, tmp_path)
    first = (tmp_path / "offline.js").read_text()
    needed = {
        path.relative_to(tmp_path).as_posix() for path in written if path.suffix != ".txt"
    } - {"offline.js"}
    assert set(json.loads(re.search(r"FILES = (\[.*\])", first)[1])) == needed | {"./"}
    write_web(b"a model", ABOUT, tmp_path)
    assert (tmp_path / "offline.js").read_text() == first
    write_web(b"another model", ABOUT, tmp_path)
    assert (tmp_path / "offline.js").read_text() != first


@pytest.mark.usefixtures("any_runtime")
def test_a_folder_that_cannot_be_written_is_told(tmp_path):
    (tmp_path / "page").write_bytes(b"a file")
    with pytest.raises(ExportError, match="page cannot be written"):
        write_web(b"a model", ABOUT, tmp_path / "page")


# ---- the page, in a browser


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    if not chromium.find_chromium():
        pytest.skip("no Chromium: the page was not opened")
    with chromium.open_chromium(tmp_path_factory.mktemp("profile")) as page:
        yield page


def export_page(model, web_runtime, folder):
    """Write a page as people do, by the command; return its folder."""
    words = ["export", model, "-f", "web", "--runtime", web_runtime, "-o", folder, "--quiet"]
    words += ["--no-measure"]
    done = CliRunner().invoke(main, [str(word) for word in words])
    assert done.exit_code == 0, done.output
    return folder / "web"


@pytest.fixture(scope="module")
def shapes_page(model_folder, web_runtime, tmp_path_factory):
    return export_page(model_folder, web_runtime, tmp_path_factory.mktemp("shapes") / "export")


@pytest.fixture(scope="module")
def classifier(shapes_page):
    """Open in Python the very file that the page opens."""
    return load(shapes_page / "model.onnx")


@pytest.fixture(scope="module")
def shapes_address(shapes_page):
    with serve_folder(shapes_page) as address:
        yield address


@pytest.fixture
def page(browser, shapes_address):
    """Open the page anew, with its model ready."""
    browser.show_as(1200, 900)
    browser.open(shapes_address)
    browser.wait(IS_READY)
    return browser


@pytest.fixture
def write_photo(tmp_path, draw_shape):
    """Write an image as a file; without one, a shape."""

    def write(name, image=None, **options):
        image = image or draw_shape("disc", 77, 150, 90)
        image.save(tmp_path / name, **options)
        return tmp_path / name

    return write


def look_at(page, paths):
    """Drop photos on the page; return what it says of them."""
    page.run("window.results.length = 0")
    page.drop(".intake", paths)
    page.wait(f"window.results.length === {len(paths)}")
    return page.run("window.results")


def compare(classifier, images, results, tolerance):
    """Compare the page's answers with Python's."""
    for expected, found in zip(classifier.predict(images), results, strict=True):
        assert found["label"] == expected.label
        assert found["probabilities"] == pytest.approx(expected.probabilities, abs=tolerance)


@pytest.fixture(scope="module")
def real_paths(real_photos, tmp_path_factory):
    """Write ten photos of objects, of the world, and of handwritten digits, and ten of clothes."""
    folder = tmp_path_factory.mktemp("real")
    digits = [
        Image.fromarray((255 - 15 * digit).astype(np.uint8)) for digit in load_digits().images[:2]
    ]
    images = {f"{name}{at}.jpg": image for name, count in (("eth80", 5), ("cifar10", 3))
              for at, image in enumerate(real_photos(name, count))}  # fmt: skip
    images |= {f"digit{at}.png": image for at, image in enumerate(digits)}
    images |= {f"clothing{at}.jpg": image for at, image in enumerate(real_photos("clothing", 10))}
    for name, image in images.items():
        image.save(folder / name)
    return [folder / name for name in images]


@pytest.fixture(scope="module")
def real_model(real_photos, fixed_settings, tmp_path_factory):
    """Train a model of ETH-80's objects."""
    folder = tmp_path_factory.mktemp("objects")
    classes = ("apple", "car", "cow", "cup", "dog", "horse", "pear", "tomato")
    for at, image in enumerate(real_photos("eth80", 80)):
        path = folder / "photos" / classes[at // 10] / f"{at}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        image.save(path)
    train(folder / "photos", folder / "model", fixed_settings)
    return folder / "model"


@pytest.mark.slow
def test_real_photos_get_the_answers_that_python_gives_of_the_same_file(
    browser, real_paths, real_model, web_runtime, tmp_path
):
    folder = export_page(real_model, web_runtime, tmp_path / "export")
    shipped = load(folder / "model.onnx")
    with serve_folder(folder) as address:
        browser.open(address)
        browser.wait(IS_READY)
        results = look_at(browser, real_paths)
        # from a file Python decodes a JPEG at half its size where that is enough, which the page
        # cannot
        whole = [Image.open(path) for path in real_paths]
        compare(shipped, whole, results, 0.02)
        shown = browser.run("[...document.querySelectorAll('.card')].map(card => card.innerText)")
    assert [result["name"] for result in results] == [path.name for path in real_paths]
    labels = [result["label"] for result in results]
    is_right = np.array(labels[:5]) == ["apple", "car", "cup", "dog", "pear"]
    assert is_right.sum() >= 4
    for text, path, label in zip(shown, real_paths, labels, strict=True):
        assert text.startswith(label)
        assert path.name in text


def make_gamma_png(image):
    """Write a PNG that says its numbers are to be understood otherwise, as a colour profile
    does.
    """
    buffer = BytesIO()
    image.save(buffer, "PNG")
    content, chunk = buffer.getvalue(), b"gAMA" + struct.pack(">I", 100_000)
    return (
        content[:33]
        + struct.pack(">I", 4)
        + chunk
        + struct.pack(">I", zlib.crc32(chunk))
        + content[33:]
    )


@pytest.fixture(scope="module")
def probe():
    """Build a model that gives the colours of four by four squares of an image, as they reach
    it.
    """
    graph = Graph()
    size = graph.constant("size", [4, 4])
    squares = graph.add("Resize", "image", "", "", size, axes=[1, 2], mode="linear", antialias=1)
    colours = graph.add("Cast", graph.add("Flatten", squares, axis=1), to=TensorProto.FLOAT)
    graph.add("Div", colours, graph.constant("white", 255, np.float32), name="probabilities")
    return graph.to_bytes("image", "probabilities", ["n", 48])


def see_by_page(browser, probe, web_runtime, folder, paths):
    """See images through the page: the colours of their squares, 48 numbers of each."""
    about = replace(ABOUT, class_names=tuple(map(str, range(48))))
    write_web(probe, about, folder, web_runtime)
    with serve_folder(folder) as address:
        browser.open(address)
        browser.wait(IS_READY)
        return [
            [result["probabilities"][name] for name in about.class_names]
            for result in look_at(browser, paths)
        ]


def see_by_python(probe, paths):
    session = open_session(probe)
    return [
        session.run(None, {"image": np.asarray(open_image(path.read_bytes()))[None]})[0][0]
        for path in paths
    ]


def test_photos_of_all_kinds_reach_the_model_as_python_sees_them(
    browser, probe, web_runtime, write_photo, draw_shape, tmp_path
):
    image = draw_shape("spike", 5, 150, 90)
    turned = Image.Exif()
    turned[0x0112] = 6
    faint = image.copy()
    faint.putalpha(Image.linear_gradient("L").resize(image.size))
    deep = Image.fromarray(np.asarray(image.convert("L")).astype(np.uint16) * 257)
    gamma = tmp_path / "gamma.png"
    gamma.write_bytes(make_gamma_png(image))
    paths = [
        write_photo("plain.png", image),
        write_photo("turned.jpg", image, quality=95, exif=turned),
        write_photo("grey.png", image.convert("L")),
        write_photo("deep.png", deep),
        write_photo("faint.png", faint),
        write_photo("palette.gif", image.quantize(16)),
        write_photo("bits.bmp", image),
        gamma,
        write_photo("lossless.webp", image, lossless=True),
        write_photo("progressive.jpg", image, progressive=True),
        write_photo("ink.jpg", image.convert("CMYK")),
        write_photo("one.png", image.crop((0, 0, 1, 1))),
        write_photo("line.png", image.resize((500, 3))),
    ]
    seen = see_by_page(browser, probe, web_runtime, tmp_path / "page", paths)
    for path, colours, expected in zip(paths, seen, see_by_python(probe, paths), strict=True):
        np.testing.assert_allclose(colours, expected, atol=1.01 / 255, err_msg=path.name)


def test_huge_photos_are_reduced_without_changing_their_colours(
    browser, probe, web_runtime, write_photo, draw_shape, tmp_path
):
    huge = draw_shape("box", 6).resize((2403, 1801), Image.Resampling.BICUBIC)
    paths = [write_photo("huge.jpg", huge), write_photo("huge.png", huge, compress_level=1)]
    seen = see_by_page(browser, probe, web_runtime, tmp_path / "page", paths)
    np.testing.assert_allclose(seen, see_by_python(probe, paths), atol=1.01 / 255)
    assert "2403 × 1801" in browser.read_text()


def test_what_is_no_image_is_told_and_the_rest_goes_on(page, write_photo, tmp_path):
    files = {
        "notes.txt": b"some words",
        "empty.jpg": b"",
        "broken.png": b"\x89PNG\r\n\x1a\n" + bytes(50),
    }
    for name, content in files.items():
        (tmp_path / name).write_bytes(content)
    results = look_at(page, [*(tmp_path / name for name in files), write_photo("good.png")])
    assert [result.get("error", "")[:22] for result in results] == [
        "This is no image.", "The file is empty.", "This image is damaged,", ""
    ]  # fmt: skip
    assert results[-1]["label"] == "disc"
    assert page.run("[...document.querySelectorAll('.card .problem')].length") == 3


def test_photos_are_chosen_pasted_and_cleared_away(page, write_photo):
    page.choose("#files", [write_photo("chosen.png")])
    page.wait("window.results.length === 1")
    assert "chosen.png: disc, " in page.run("document.getElementById('status').textContent")
    page.run("""(async () => {
        const canvas = document.createElement("canvas");
        const blob = await new Promise(resolve => canvas.toBlob(resolve));
        const clipboardData = new DataTransfer();
        clipboardData.items.add(new File([blob], "pasted.png", {type: "image/png"}));
        document.dispatchEvent(new ClipboardEvent("paste", {clipboardData}));
    })()""")
    page.wait("window.results.length === 2")
    assert "pasted.png" in page.run("document.querySelector('.card').innerText")
    page.click("#clear")
    assert page.run("document.querySelectorAll('.card').length + window.results.length") == 0


def test_the_camera_is_watched_and_a_picture_kept(page):
    page.click("#camera")
    page.wait("document.querySelectorAll('#live li').length === 3")
    assert page.run("document.activeElement.id") == "keep"
    page.click("#keep")
    page.wait("window.results.length === 1")
    assert page.run("window.results[0].label") in ABOUT.class_names
    page.click("#stop")
    assert page.run("document.getElementById('finder').hidden")
    assert not page.run("document.getElementById('video').srcObject.active")
    assert page.run("document.activeElement.id") == "camera"


def test_a_camera_that_may_not_be_used_is_told(page):
    page.run(
        "navigator.mediaDevices.getUserMedia = async () => { throw new DOMException('', "
        "'NotAllowedError') }"
    )
    page.click("#camera")
    page.wait("!document.getElementById('problem').hidden")
    assert "Allow it beside the address" in page.run(
        "document.getElementById('problem').textContent"
    )


# ---- what it promises


def test_the_page_works_without_its_server(browser, shapes_page, classifier, write_photo):
    with serve_folder(shapes_page) as address:
        browser.open(address)
        browser.wait(IS_READY)
        browser.wait("!document.getElementById('offline').hidden")
    path = write_photo("later.png")
    compare(classifier, [path], look_at(browser, [path]), 0.01)
    browser.open(address)  # all over again, and nobody answers
    browser.wait(IS_READY)
    compare(classifier, [path], look_at(browser, [path]), 0.01)


def test_nothing_can_be_sent_elsewhere(page, web_site):
    web_site.files["taken"] = b""
    address = f"{web_site.address}/taken"
    send = f"fetch({address!r}, {{mode: 'no-cors'}}).then(() => 'sent', () => 'refused')"
    assert page.run(send) == "refused"
    assert page.run_in_worker(send) == "refused"
    show = "const i = new Image(); i.onload = () => done('sent'); i.onerror = () => done('refused')"
    assert page.run(f"new Promise(done => {{ {show}; i.src = {address!r} }})") == "refused"
    assert web_site.asked == []


def test_all_that_is_asked_for_lies_beside_the_page(page, write_photo):
    look_at(page, [write_photo("photo.png")])
    own = page.run("location.href")
    asked = {
        url.partition(own)[2]
        for url in page.list_requests()
        if not url.startswith(("blob:", "data:"))
    }
    assert {"page.js", "page.css"} <= asked <= PAGE_FILES | {""} | BUILD_FILES


def test_the_page_is_silent_in_the_console(page, write_photo):
    look_at(page, [write_photo("photo.png")])
    assert page.list_complaints() == []


def test_the_keyboard_reaches_everything(page):
    reached = []
    for _ in range(2):
        page.press("Tab", 9)
        reached.append(page.run("document.activeElement.id"))
    assert reached == ["files", "camera"]


def test_nothing_sticks_out_on_a_small_phone(page, write_photo):
    page.show_as(320, 640)
    look_at(page, [write_photo(f"{'a-very-long-name-' * 8}.png")])
    assert page.run("document.documentElement.scrollWidth") <= 320


def test_the_page_says_how_to_open_it_when_it_was_opened_as_a_file(browser, shapes_page):
    browser.open((shapes_page / "index.html").as_uri())
    browser.wait(
        "document.getElementById('problem').textContent.includes('python3 -m http.server')"
    )


# ---- what it is worth


def export_web(model_folder, web_runtime, tmp_path):
    """Export a copy of a model for the browser; return what the command said, the export, and the
    page.
    """
    model = shutil.copytree(model_folder, tmp_path / "model")
    words = [
        "export",
        model,
        "-f",
        "web",
        "--runtime",
        web_runtime,
        "-o",
        tmp_path / "out",
        "--quiet",
    ]
    done = CliRunner().invoke(main, [str(word) for word in words])
    assert done.exit_code == 0, done.output
    return (
        done.output,
        read_exports(tmp_path / "out")["web"],
        (tmp_path / "out" / "web" / "index.html").read_text(),
    )


@pytest.mark.slow
def test_what_the_page_is_worth_is_measured_by_its_own_runtime(
    model_folder, web_runtime, tmp_path, monkeypatch
):
    def answer_nothing(path):
        return lambda images: np.tile(np.array([[0.5, 0.3, 0.2]], np.float32), (len(images), 1))

    if reason := explain_missing_node():
        pytest.skip(f"the page's model was not run: {reason}")
    monkeypatch.setitem(READERS, "onnxruntime", answer_nothing)  # Python's runtime has no say
    output, item, page = export_web(model_folder, web_runtime, tmp_path)
    assert item.score.accuracy > 0.8
    assert item.trial.peak_mb > 20
    assert f"{100 * item.score.accuracy:.1f}\u00a0% of 12 photos that it had never seen" in page
    assert "not measured" not in output


def test_without_node_nothing_is_said_of_what_the_page_is_worth(
    model_folder, web_runtime, tmp_path, monkeypatch
):
    monkeypatch.setattr(node.shutil, "which", lambda name: None)
    explain_missing_node.cache_clear()
    try:
        output, item, page = export_web(model_folder, web_runtime, tmp_path)
    finally:
        explain_missing_node.cache_clear()
    assert (item.score, item.trial) == (None, None)
    reason = "that needs Node.js, which is not installed"
    assert f"web was not measured: {reason}." in output
    assert item.unmeasured == reason
    assert f"was not measured: {reason}" in (tmp_path / "out" / "README.md").read_text()
    assert f"web was not measured: {reason}" in (tmp_path / "model" / "report.html").read_text()
    assert "How often it is right was not measured." in page


# ---- what goes wrong, in words


def copy_page(page, folder):
    shutil.copytree(page, folder)
    return folder


def read_problem(browser, folder):
    """Open a page that cannot work; return what it says, and the detail that is folded away."""
    with serve_folder(folder) as address:
        browser.open(address)
        browser.wait("!document.getElementById('problem').hidden")
        assert not browser.run("document.querySelector('#problem details').open")
        return [
            browser.run(f"document.querySelector('#problem {tag}').textContent")
            for tag in ("p", "code")
        ]


@pytest.mark.parametrize(
    ("name", "words", "detail"),
    [
        ("model.onnx", "The model cannot be loaded.", "404"),
        (
            "runtime/ort.wasm.min.js",
            "The program that runs the model cannot be loaded.",
            "ort.wasm.min.js",
        ),
        (
            "runtime/ort-wasm-simd-threaded.wasm",
            "The program that runs the model cannot be started.",
            "backend",
        ),
        ("worker.js", "A part of this page cannot be loaded.", "worker.js"),
    ],
)
def test_a_file_that_is_missing_is_told_in_words(
    browser, shapes_page, tmp_path, name, words, detail
):
    folder = copy_page(shapes_page, tmp_path / "page")
    (folder / name).unlink()
    said, folded = read_problem(browser, folder)
    assert said.startswith(words)
    assert "Reload the page." in said
    assert detail in folded
    assert detail not in said


def test_a_model_that_the_runtime_cannot_run_is_told_in_words(browser, shapes_page, tmp_path):
    folder = copy_page(shapes_page, tmp_path / "page")
    (folder / "model.onnx").write_bytes(b"no model")
    said, folded = read_problem(browser, folder)
    assert said.startswith("This model cannot be run here.")
    assert "ERROR_CODE" in folded
    assert "ERROR" not in said


@pytest.mark.slow
def test_a_photo_for_which_there_is_too_little_memory_is_told_in_words(
    browser, web_runtime, write_photo, tmp_path
):
    graph = Graph()
    level = graph.add("Cast", graph.add("Flatten", "image", axis=1), to=TensorProto.FLOAT)
    highest = graph.add("ReduceMax", level, keepdims=1)
    vast = graph.add(
        "Expand", highest, graph.constant("shape", [1000, 1_073_000])
    )  # all of the 4 GiB
    graph.add("ReduceMax", vast, graph.constant("axes", [1]), keepdims=0, name="probabilities")
    write_web(
        graph.to_bytes("image", "probabilities", ["n"]), ABOUT, tmp_path / "page", web_runtime
    )
    with serve_folder(tmp_path / "page") as address:
        browser.open(address)
        browser.wait(IS_READY)
        [result] = look_at(browser, [write_photo("photo.png")])
        folded = browser.run("document.querySelector('.card .problem code').textContent")
    assert result["error"].startswith("There is too little memory for this photo."), folded
    assert folded
    assert folded not in result["error"]
