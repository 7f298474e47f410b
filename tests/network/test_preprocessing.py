"""How images are wanted: by whom it is said, in whose units."""

import pytest

from squeezetune.errors import SettingsError, WeightsError
from squeezetune.network.preprocessing import (
    IMAGENET_MEAN,
    IMAGENET_STD,
    PreprocessingOptions,
    find_preprocessing,
    find_value,
)

NOTHING = PreprocessingOptions()
HALF = (0.5, 0.5, 0.5)


def test_imagenets_statistics_are_taken_where_nobody_says_others():
    found = find_preprocessing({}, 0, NOTHING)
    assert (found.side, found.mean, found.std, found.order) == (
        224,
        IMAGENET_MEAN,
        IMAGENET_STD,
        "rgb",
    )
    assert found.reasons["normalisation"].startswith("ImageNet's, since neither")
    assert "nor anybody says" in found.reasons["side"]


RECORD = {"mean": (0.5, 0.5, 0.5), "std": (0.5, 0.5, 0.5), "input_size": (3, 299, 299),
          "license": "apache-2.0", "crop_pct": 0.9}  # fmt: skip


@pytest.mark.parametrize(
    "metadata",
    [
        {"cfg": str(RECORD)},  # Orange's, a dict of Python as it prints itself
        {"pretrained_cfg": str(RECORD).replace("(", "[").replace(")", "]").replace("'", '"')},
        {"mean": "[0.5, 0.5, 0.5]", "std": "0.5 0.5 0.5", "input_size": "(3, 299, 299)",
         "license": "apache-2.0"},
        {"mean": "127.5,127.5,127.5", "std": "127.5", "image_side": "299",
         "license": "apache-2.0"},
    ],
)  # fmt: skip
def test_a_file_may_say_how_it_wants_images(metadata):
    found = find_preprocessing(metadata, 0, NOTHING)
    assert (found.side, found.mean, found.std) == (299, HALF, HALF)
    assert found.reasons["normalisation"].startswith("as the file says")
    assert find_value(metadata, "license") == "apache-2.0"


def test_who_calls_comes_first_and_the_graph_before_the_file():
    metadata = {"mean": "0.1 0.2 0.3", "std": "0.4 0.5 0.6", "input_size": "3 299 299"}
    found = find_preprocessing(metadata, 192, PreprocessingOptions(mean=HALF, side=192))
    assert (found.side, found.mean, found.std) == (192, HALF, (0.4, 0.5, 0.6))
    assert found.reasons["normalisation"] == "as asked for"
    assert find_preprocessing(metadata, 192, NOTHING).side == 192


def test_values_of_0_to_255_are_known_by_their_size():
    options = PreprocessingOptions(mean=(123.675, 116.28, 103.53), std=(58.395, 57.12, 57.375))
    found = find_preprocessing({}, 0, options)
    assert found.mean == pytest.approx(IMAGENET_MEAN)
    assert found.std == pytest.approx(IMAGENET_STD)
    assert found.reasons["normalisation"] == "as asked for, of values of 0 to 255"
    whole = find_preprocessing({}, 0, PreprocessingOptions(mean=(0,), std=(1,)))
    assert (whole.mean, whole.std) == ((0, 0, 0), (1, 1, 1))


@pytest.mark.parametrize(
    "options",
    [
        {"mean": (0.5, 0.5)},
        {"mean": ()},
        {"std": (0.5, 0.5, 0)},
        {"std": (0.5, 0.5, -1)},
        {"mean": (0.5, float("nan"), 0.5)},
        {"order": "hsv"},
    ],
)
def test_what_is_no_mean_deviation_or_order_is_refused(options):
    with pytest.raises(SettingsError, match="needed"):
        find_preprocessing({}, 0, PreprocessingOptions(**options))


def test_another_side_than_the_graph_takes_is_refused():
    with pytest.raises(WeightsError, match="192 x 192 pixels alone; asked for is 224"):
        find_preprocessing({}, 192, PreprocessingOptions(side=224))


def test_a_network_that_takes_pixels_wants_no_mean():
    found = find_preprocessing({"order": "BGR"}, 0, NOTHING, is_uint8=True)
    assert (found.order, found.reasons["normalisation"]) == ("bgr", "inside the network")
    with pytest.raises(SettingsError, match="takes pixels as they are"):
        find_preprocessing({}, 0, PreprocessingOptions(mean=HALF), is_uint8=True)
