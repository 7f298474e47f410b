import json
from dataclasses import replace

import numpy as np
import pytest
from example_orders import METADATA, make_order
from odd_images import (
    COUNTS,
    compare,
    keep_pixels_only,
    make_odd_images,
    measure_pixel_gap,
    open_model,
)

torch = pytest.importorskip("torch", reason="torch is an extra")
from squeezetune.exporting.copied import squeezenet  # noqa: E402
from squeezetune.exporting.runtimes import open_torch  # noqa: E402
from squeezetune.exporting.torch_program import check_torch, read_metadata, write_torch  # noqa: E402


@pytest.fixture(scope="module")
def written(order, tmp_path_factory):
    path = tmp_path_factory.mktemp("torch") / "model.pt2"
    write_torch(order, path)
    return path


@pytest.mark.parametrize("count", COUNTS)
def test_the_program_agrees_with_the_model_on_odd_images(order, written, count):
    found = compare(open_model(order.model), open_torch(written), make_odd_images(count, large=1))
    assert found.same_class >= 1 - 1.01 / count  # one may be a toss-up
    assert found.mean < 0.01


@pytest.mark.parametrize("count", COUNTS)
def test_what_the_network_sees_is_what_the_models_sees(order, written, count):
    network = squeezenet.load(written.parent)

    def fit(images):
        return network.fit(torch.tensor(images)).permute(0, 2, 3, 1).numpy()

    expected = open_model(keep_pixels_only(order.model))
    assert measure_pixel_gap(expected, fit, make_odd_images(count, large=1)) <= 1


def test_images_may_come_together(order, written):
    images = np.random.default_rng(0).integers(0, 256, (5, 40, 90, 3), dtype=np.uint8)
    run = open_torch(written)
    together = run(images)
    assert together.shape == (5, 4)
    np.testing.assert_allclose(
        together, np.concatenate([run(image[None]) for image in images]), atol=1e-5
    )
    np.testing.assert_allclose(together, open_model(order.model)(images), atol=0.05)


def test_the_program_says_what_it_is(written):
    check_torch(written)
    assert read_metadata(written) == METADATA
    config = json.loads((written.parent / "config.json").read_text(encoding="utf-8"))
    assert config["class_names"] == json.loads(METADATA["class_names"])
    assert config["metadata"]["license"] == METADATA["license"]


def test_classes_may_be_called_anything(order, tmp_path):
    names = ["кот", "two\nlines", "\u2028", "no text \udcff"]
    write_torch(
        replace(order, metadata=METADATA | {"class_names": json.dumps(names)}),
        tmp_path / "model.pt2",
    )
    assert json.loads((tmp_path / "config.json").read_bytes())["class_names"] == names
    assert json.loads(read_metadata(tmp_path / "model.pt2")["class_names"]) == names


def test_the_parameters_take_little(written):
    assert (written.parent / "model.safetensors").stat().st_size < 1_600_000


def test_the_older_squeezenet_has_other_places(old_weights, tmp_path):
    order = make_order(old_weights)
    write_torch(order, tmp_path / "model.pt2")
    found = compare(
        open_model(order.model), open_torch(tmp_path / "model.pt2"), make_odd_images(20, large=0)
    )
    assert found.largest < 0.05
