import json
import subprocess
import sys
from dataclasses import replace
from zipfile import ZipFile

import numpy as np
import pytest
from described_network import (
    EVERYTHING,
    draw_parameters,
    draw_photos,
    find_least_side,
    make_narrow,
)
from example_orders import METADATA, NETWORKS, make_order, make_orders
from odd_images import (
    COUNTS,
    compare,
    keep_pixels_only,
    make_odd_images,
    measure_pixel_gap,
    open_model,
)
from PIL import Image
from sessions import open_session
from threadpoolctl import threadpool_limits

pytest.importorskip("ai_edge_litert", reason="LiteRT is an extra")
from squeezetune.compression.layerwise import compress_layers
from squeezetune.data.index import index_photos
from squeezetune.exporting import onnx_formats as onnx_files
from squeezetune.exporting import tflite
from squeezetune.exporting.copied.squares import make_square
from squeezetune.exporting.export_inputs import TrainingPhotos
from squeezetune.exporting.formats import TFLITE_USAGE
from squeezetune.exporting.onnx_formats import fit_int8, write_int8
from squeezetune.exporting.runtimes import open_tflite
from squeezetune.exporting.tflite import (
    check_tflite,
    read_metadata,
    write_tflite,
    write_tflite_int8,
)
from squeezetune.network import zoo
from squeezetune.network.backbone import FLOAT_RUNTIME, measure_ranges
from squeezetune.network.graph import build_backbone
from squeezetune.network.inference import open_graph
from squeezetune.network.int8_layers import Int8
from squeezetune.network.trained import TrainedNetwork
from squeezetune.network.weights import fold_norms
from squeezetune.system.executor import ThreadExecutor


@pytest.fixture(scope="module")
def written(order, tmp_path_factory):
    path = tmp_path_factory.mktemp("tflite") / "model.tflite"
    write_tflite(order, path)
    return path


@pytest.mark.parametrize("count", COUNTS)
def test_the_network_agrees_with_the_model_on_odd_images(order, written, count):
    found = compare(open_model(order.model), open_tflite(written), make_odd_images(count, large=1))
    assert found.same_class >= 1 - 1.01 / count  # one may be a toss-up
    assert found.mean < 0.01


@pytest.mark.parametrize("count", COUNTS)
def test_what_the_network_sees_is_what_the_models_sees(order, count):
    def fit(images):
        return make_square(images[0], order.network.side, order.network.resize)[None]

    expected = open_model(keep_pixels_only(order.model))
    assert measure_pixel_gap(expected, fit, make_odd_images(count, large=1)) <= 1


@pytest.fixture(
    scope="module", params=[pytest.param(NETWORKS[1], marks=pytest.mark.slow), NETWORKS[2]]
)
def small(weights, shape_folder, tmp_path_factory, request):
    """Write the files of int8, LiteRT's and ONNX's, with the same parameters."""
    order = make_orders(weights)[request.param]
    index = index_photos(shape_folder, executor=ThreadExecutor(1))
    photos = TrainingPhotos(index, np.arange(0, len(index), 5))
    folder, order = tmp_path_factory.mktemp("int8"), replace(order, photos=photos)
    with threadpool_limits(1), pytest.MonkeyPatch.context() as patch:
        fitted = fit_int8(order)
        for module in (tflite, onnx_files):
            patch.setattr(module, "fit_int8", lambda _: fitted)
        write_tflite_int8(order, folder / "model.tflite")
        write_int8(order, folder / "model.onnx")
    return folder / "model.tflite", (folder / "model.onnx").read_bytes()


def test_int8_answers_as_the_onnx_file_of_int8(small, draw_shape):
    path, onnx = small
    images = np.stack(
        [draw_shape(shape, seed) for shape in ("box", "disc", "spike") for seed in range(100, 110)]
    )
    expected, found = open_model(onnx)(images), open_tflite(path)(images)
    np.testing.assert_allclose(found, expected, atol=0.08 * np.ptp(expected, axis=0).max())
    assert path.stat().st_size < 0.95e6
    check_tflite(path)


@pytest.mark.parametrize("side", [37, 56, 96, 97, 224])
def test_sides_of_any_parity(weights, side, tmp_path):
    """Of an odd number of pixels a pool leaves none out, of an even number it adds one."""
    order = make_order(weights, side=side)
    write_tflite(order, tmp_path / "model.tflite")
    squares = np.random.default_rng(0).integers(0, 256, (3, side, side, 3), dtype=np.uint8)
    found = open_tflite(tmp_path / "model.tflite")(squares)
    np.testing.assert_allclose(found, open_model(order.model)(squares), atol=2e-3)


def test_images_may_come_together(order, written):
    images = np.random.default_rng(0).integers(0, 256, (5, 40, 90, 3), dtype=np.uint8)
    run = open_tflite(written)
    together = run(images)
    assert together.shape == (5, 4)
    np.testing.assert_allclose(
        together, np.concatenate([run(image[None]) for image in images]), atol=1e-5
    )


def test_the_older_squeezenet_has_other_places(old_weights, tmp_path):
    order = make_order(old_weights)
    write_tflite(order, tmp_path / "model.tflite")
    found = compare(
        open_model(order.model),
        open_tflite(tmp_path / "model.tflite"),
        make_odd_images(20, large=0),
    )
    assert found.largest < 0.05


def test_the_file_says_what_it_is(order, written):
    check_tflite(written)
    assert read_metadata(written) == METADATA
    with ZipFile(written) as archive:
        assert archive.read("labels.txt").decode().splitlines() == json.loads(
            METADATA["class_names"]
        )
        about = json.loads(archive.read("preprocessing.json"))
    assert about == {"image_side": 64, "resize": order.network.resize}


def test_every_class_is_one_line_of_labels(order, tmp_path):
    names = ["кот", "two\nlines", "\u2028", "no text \udcff"]
    write_tflite(
        replace(order, metadata=METADATA | {"class_names": json.dumps(names)}),
        tmp_path / "odd.tflite",
    )
    assert json.loads(read_metadata(tmp_path / "odd.tflite")["class_names"]) == names
    with ZipFile(tmp_path / "odd.tflite") as archive:
        labels = archive.read("labels.txt").decode().splitlines()
    assert labels == ["кот", "two\\nlines", "\\u2028", "no text \\udcff"]


def test_it_is_small_and_always_the_same(order, written, tmp_path):
    write_tflite(order, tmp_path / "again.tflite")
    assert (tmp_path / "again.tflite").read_bytes() == written.read_bytes()
    assert written.stat().st_size < 1_600_000


def test_a_file_that_was_cut_is_refused(written, tmp_path):
    torn = tmp_path / "torn.tflite"
    torn.write_bytes(written.read_bytes()[:900_000])
    with pytest.raises(ValueError, match="not a valid Flatbuffer"):
        check_tflite(torn)


def test_the_program_of_the_card_names_the_models_class(order, written, draw_shape, tmp_path):
    program, photo = tmp_path / "classify.py", tmp_path / "photo.png"
    program.write_text(TFLITE_USAGE.replace("FILE", str(written)), encoding="utf-8")
    draw_shape("box", 0, 150, 110).save(photo)
    done = subprocess.run([sys.executable, program, photo], capture_output=True, check=True)
    probabilities = open_model(order.model)(np.asarray(Image.open(photo))[None])[0]
    name = json.loads(METADATA["class_names"])[probabilities.argmax()]
    [line] = done.stdout.decode().splitlines()
    assert line.startswith(f"{photo}: {name} (")
    assert float(line.rpartition("(")[2].rstrip("%)")) / 100 == pytest.approx(
        probabilities.max(), abs=0.02
    )


# ---- a network with every kind of layer, and Inception


@pytest.fixture(params=[EVERYTHING, make_narrow(zoo.INCEPTION_V3)], ids=lambda each: each.name)
def every_kind(monkeypatch, request):
    """Give a network with every kind of layer, photos, and its probabilities in ONNX Runtime."""
    described = request.param
    monkeypatch.setitem(zoo.NETWORKS, described.name, described)
    rng = np.random.default_rng(0)
    weights = fold_norms(draw_parameters(described), described)
    photos = draw_photos(6, find_least_side(described))
    # centred, so that photos that are alike get classes of their own
    features = open_graph(build_backbone(weights), FLOAT_RUNTIME, 1)(photos)[:, 0]
    head = rng.standard_normal((described.feature_count, 4)).astype(np.float32)
    head /= (features @ head).std()
    layers = ((head, -(features @ head).mean(axis=0)),)
    side = photos.shape[1]
    network = TrainedNetwork(weights, layers, 1, side, "squash", False)
    return network, photos, open_session(network.build_model({})).run(None, {"image": photos})[0]


def interpret(model, photos):
    from ai_edge_litert.interpreter import Interpreter

    interpreter = Interpreter(model_content=model)
    run = interpreter.get_signature_runner()
    return np.concatenate([run(image=photo[None])["probabilities"] for photo in photos])


def test_every_kind_of_layer_computes_what_onnx_runtime_does(every_kind):
    network, photos, expected = every_kind
    found = interpret(tflite.build_network(network), photos)
    np.testing.assert_allclose(found, expected, atol=5e-3)  # kernels are float16
    assert len(set(expected.argmax(axis=1))) > 1


def test_every_kind_of_layer_in_int8_is_near_float(every_kind):
    network, photos, expected = every_kind
    ranges = measure_ranges(network.weights, photos)
    with threadpool_limits(1):
        fitted = compress_layers(network, photos, 8, ranges)
    model = tflite.build_network(fitted.network, Int8(ranges, network.side, fitted.codes))
    assert np.abs(interpret(model, photos) - expected).mean() < 0.03
