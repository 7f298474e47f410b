"""The ONNX formats on the odd images: what their networks see, and what they answer."""

from dataclasses import replace

import numpy as np
import onnx
import pytest
from example_orders import NETWORKS, make_orders
from odd_images import compare, keep_pixels_only, make_odd_images, open_model
from threadpoolctl import threadpool_limits

from squeezetune.data.index import index_photos
from squeezetune.exporting.export_inputs import TrainingPhotos
from squeezetune.exporting.formats import FORMATS
from squeezetune.system.executor import ThreadExecutor

EXACT, LOSSY = ("onnx", "onnx-fp16"), ("onnx-int8", "onnx-tiny")


# A network, and how many odd images it looks at.
FEW, MANY = [(NETWORKS[0], 64)], [(kind, 200) for kind in NETWORKS]


@pytest.fixture(
    scope="module",
    params=[*FEW, *(pytest.param(each, marks=pytest.mark.slow) for each in MANY)],
    ids=lambda case: f"{case[0]}, {case[1]} images",
)
def case(request):
    return request.param


@pytest.fixture(scope="module")
def odd_images(case):
    return list(make_odd_images(case[1], large=1 if case in FEW else 2))


@pytest.fixture(scope="module")
def order(weights, shape_folder, case):
    index = index_photos(shape_folder, executor=ThreadExecutor(1))
    # few: what is fitted to them need not be good here
    photos = TrainingPhotos(index, np.arange(0, len(index), 5))
    return replace(make_orders(weights)[case[0]], photos=photos)


@pytest.fixture(scope="module")
def files(order, tmp_path_factory):
    """Write an order in every format."""
    folder = tmp_path_factory.mktemp("files")
    with threadpool_limits(1):
        for name in (*EXACT, *LOSSY):
            FORMATS[name].write(order, folder / name)
    return {name: (folder / name).read_bytes() for name in (*EXACT, *LOSSY)}


@pytest.fixture(scope="module")
def seen(order, odd_images):
    """See the odd images as the network of `model.onnx` does."""
    see = open_model(keep_pixels_only(order.model))
    return [see(image[None])[0] for image in odd_images]


def check_same(name, expected, found):
    """Check that two sets of probabilities name the same classes, where a head drawn at random is
    not undecided.
    """
    ranked = np.sort(expected)
    is_decided = ranked[:, -1] - ranked[:, -2] > 0.03
    is_same = expected.argmax(axis=1) == found.argmax(axis=1)
    assert is_decided.mean() >= 0.9
    # where activations are rounded too, a grey level may be a whole step
    assert is_same[is_decided].mean() >= (0.98 if name == "onnx-int8" else 0.995)
    assert np.abs(found - expected).max(axis=1).mean() < (0.02 if name == "onnx-int8" else 0.01)


def answer(run, images):
    return np.concatenate([run(image[None]) for image in images])


def list_pixel_parts(file):
    """List what makes of an image what the network sees: nodes, and the constants that they
    read.
    """
    graph = onnx.load_from_string(keep_pixels_only(file)).graph
    read = {name for node in graph.node for name in node.input}
    constants = [tensor for tensor in graph.initializer if tensor.name in read]
    return [
        part.SerializeToString()
        for part in (*graph.node, *sorted(constants, key=lambda tensor: tensor.name))
    ]


def test_every_network_sees_what_the_models_sees(files, odd_images, seen):
    see = open_model(keep_pixels_only(files["onnx"]))
    pairs = zip(odd_images, seen, strict=True)
    assert (
        max(np.abs(see(image[None])[0].astype(int) - pixels).max() for image, pixels in pairs) <= 1
    )
    parts = list_pixel_parts(files["onnx"])
    assert all(list_pixel_parts(file) == parts for file in files.values())


@pytest.mark.parametrize("name", EXACT)
def test_floats_name_the_models_class(files, order, odd_images, name):
    found = compare(open_model(order.model), open_model(files[name]), odd_images)
    assert found.same_class >= 0.995
    assert found.mean < 0.005


@pytest.mark.parametrize("name", [*EXACT, *LOSSY])
def test_nothing_is_lost_on_the_way_to_the_network(files, odd_images, seen, name):
    """Give a file the pixels that the model's own network sees: it answers as it answers the images
    themselves.
    """
    run = open_model(files[name])
    check_same(name, answer(run, odd_images[::2]), answer(run, seen[::2]))


def test_a_convolved_classifier_is_as_small_as_others(files):
    assert len(files["onnx-tiny"]) < 0.5e6
    assert len(files["onnx-int8"]) < 0.85e6
    assert len(files["onnx-fp16"]) < 1.6e6 < 2.8e6 < len(files["onnx"])


@pytest.mark.parametrize("name", [*EXACT, *LOSSY])
def test_openvino_gives_the_answers_of_onnx_runtime(files, odd_images, name):
    openvino = pytest.importorskip("openvino", reason="openvino is an extra")
    core, plain = openvino.Core(), {"INFERENCE_PRECISION_HINT": "f32", "INFERENCE_NUM_THREADS": 1}
    compiled = core.compile_model(core.read_model(files[name]), "CPU", plain)
    images = odd_images[
        :: 5 if len(odd_images) < 100 else 8
    ]  # it compiles the network for every size
    check_same(
        name,
        answer(open_model(files[name]), images),
        answer(lambda image: compiled(image)[0], images),
    )
