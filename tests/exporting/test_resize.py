import numpy as np
import onnx
import pytest
from example_orders import make_order
from odd_images import COUNTS, keep_pixels_only, make_odd_images, measure_pixel_gap, open_model

from squeezetune.exporting.resize import PREFIX, replace_resize


@pytest.mark.parametrize("count", COUNTS)
@pytest.mark.parametrize("resize", ["squash", "crop", "pad"])
def test_matrices_resize_as_onnx_does(weights, resize, count):
    pixels = keep_pixels_only(
        make_order(weights, resize, side=37).model
    )  # an odd side puts halves elsewhere
    expected, found = open_model(pixels), open_model(replace_resize(pixels))
    assert measure_pixel_gap(expected, found, make_odd_images(count, large=1)) <= 1


@pytest.mark.parametrize(
    "resize",
    [
        "crop",
        pytest.param("squash", marks=pytest.mark.slow),
        pytest.param("pad", marks=pytest.mark.slow),
    ],
)
def test_another_runtime_computes_the_same(weights, resize):
    openvino = pytest.importorskip("openvino", reason="openvino is an extra")
    pixels, core = keep_pixels_only(make_order(weights, resize).model), openvino.Core()

    def open_compiled(model, hint):
        compiled = core.compile_model(
            core.read_model(model),
            "CPU",
            {"INFERENCE_PRECISION_HINT": hint, "INFERENCE_NUM_THREADS": 1},
        )
        return lambda images: compiled(images)[0]

    expected, model = open_model(pixels), replace_resize(pixels)
    assert (
        measure_pixel_gap(expected, open_compiled(model, "f32"), make_odd_images(50, large=1)) <= 1
    )
    assert (
        measure_pixel_gap(expected, open_compiled(model, "bf16"), make_odd_images(20, large=1)) <= 4
    )
    # the reason for all this: ONNX's own operator is read, and computed without antialiasing
    assert (
        measure_pixel_gap(expected, open_compiled(pixels, "f32"), make_odd_images(10, large=0)) > 50
    )


def test_the_rest_of_the_model_stays(weights):
    order = make_order(weights, "crop")
    changed = onnx.load_from_string(replace_resize(order.model))
    before = {node.name for node in onnx.load_from_string(order.model).graph.node}
    after = {node.name for node in changed.graph.node}
    assert {name.split("_")[0] for name in before - after} == {"resize"}
    assert all(name.startswith(PREFIX) for name in after - before - {"centercroppad_1"})
    images = np.stack([next(make_odd_images(1, large=0, seed=seed)) for seed in range(2)])
    np.testing.assert_allclose(
        open_model(replace_resize(order.model))(images), open_model(order.model)(images), atol=1e-3
    )
