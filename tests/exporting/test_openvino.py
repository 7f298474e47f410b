import json

import numpy as np
import pytest
from example_orders import METADATA, first_network, make_order
from odd_images import COUNTS, compare, make_odd_images, open_model

openvino = pytest.importorskip("openvino", reason="openvino is an extra")
from squeezetune.exporting.openvino import check_openvino, read_metadata, write_openvino  # noqa: E402
from squeezetune.exporting.runtimes import open_openvino  # noqa: E402

# more threads stall when the machine is busy
THREADS = {"INFERENCE_NUM_THREADS": 1}
PLAIN = {"INFERENCE_PRECISION_HINT": "f32", **THREADS}


@pytest.fixture(scope="module")
def written(order, tmp_path_factory):
    path = tmp_path_factory.mktemp("openvino") / "model.xml"
    write_openvino(order, path)
    return path


@pytest.mark.parametrize("count", COUNTS)
def test_it_agrees_with_the_model_on_odd_images(order, written, count):
    images = make_odd_images(count, large=1)
    found = compare(open_model(order.model), open_openvino(written, PLAIN), images)
    assert (1 - found.same_class) * count < 1.5  # one image may
    assert found.mean < 0.01


@first_network
def test_it_is_near_in_the_arithmetic_that_the_processor_prefers(order, written):
    found = compare(
        open_model(order.model), open_openvino(written, THREADS), make_odd_images(40, large=1)
    )
    assert found.same_class >= 0.9
    assert found.mean < 0.05


def test_images_may_come_together(order, written):
    images = np.stack(
        [image for image in make_odd_images(20, large=0) if image.shape == (64, 64, 3)] * 3
    )
    run = open_openvino(written)
    together = run(images)
    assert together.shape == (3, 4)
    np.testing.assert_allclose(
        together, np.concatenate([run(image[None]) for image in images]), atol=1e-4
    )


def test_the_files_are_whole_and_small(order, written):
    check_openvino(written)
    assert sorted(path.name for path in written.parent.iterdir()) == ["model.bin", "model.xml"]
    assert written.with_suffix(".bin").stat().st_size < 1.05 * len(order.model)


def test_it_says_what_it_is(written):
    found = read_metadata(written)
    assert found == METADATA
    assert json.loads(found["class_names"])[1] == "Kühe"


def test_metadata_of_any_text_survives(weights, tmp_path):
    order = make_order(weights)
    odd = {"class_names": json.dumps(['"', "]]>", "a\nb", "雪"]), "empty": ""}
    write_openvino(type(order)(order.network, order.model, odd), tmp_path / "model.xml")
    assert read_metadata(tmp_path / "model.xml") == odd
