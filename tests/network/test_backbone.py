from dataclasses import replace

import numpy as np
import pytest
from example_weights import perturb
from foreign_models import WIDTHS, ModelWriter, write_cnn

from squeezetune.data.index import index_images
from squeezetune.data.pixels import PixelSettings
from squeezetune.errors import SettingsError, WeightsError
from squeezetune.events import Notice
from squeezetune.network import backbone as backbone_module
from squeezetune.network.backbone import (
    Backbone,
    BackboneOptions,
    measure_distance,
    measure_shift,
    prepare_backbone,
    recall_calibration,
    recall_runtime,
)
from squeezetune.network.foreign_reading import parse_foreign
from squeezetune.network.graph import FEATURE_COUNT, build_backbone
from squeezetune.network.inference import Runtime, open_graph
from squeezetune.network.pretrained import Pretrained

FLOAT, INT8 = Runtime("onnxruntime", "float32"), Runtime("onnxruntime", "int8")


@pytest.fixture(scope="module")
def photos():
    coarse = np.random.default_rng(3).integers(0, 256, (12, 8, 8, 3), dtype=np.uint8)
    return coarse.repeat(8, axis=1).repeat(8, axis=2)


@pytest.fixture
def index(photos, executor):
    return index_images(photos, [at % 2 for at in range(len(photos))], executor=executor)


@pytest.fixture
def options(tmp_path):
    return BackboneOptions(PixelSettings(64), 1, "onnxruntime", "int8", 2, tmp_path / "cache")


@pytest.fixture
def draw(index, photos):
    """Draw the first eight images; count how often that is asked for."""

    def draw_counted():
        draw_counted.count += 1
        return index.digests[:8], photos[:8]

    draw_counted.count = 0
    return draw_counted


# ---- the key under which features are kept


def test_the_key_names_all_that_features_depend_on(weights):
    backbone = Backbone(build_backbone(weights), FLOAT, PixelSettings(64), 1, 2048)
    others = [
        replace(backbone, model=build_backbone(weights, views=2), views=2),
        replace(backbone, runtime=INT8),
        replace(backbone, pixels=PixelSettings(65)),
        replace(backbone, pixels=PixelSettings(64, "crop")),
        replace(
            backbone,
            model=build_backbone({**weights, "features.0.bias": weights["features.0.bias"] + 1}),
        ),
    ]
    assert backbone.key == replace(backbone).key
    assert len({backbone.key, *(other.key for other in others)}) == 6


def test_the_key_changes_with_the_engines_version(weights, monkeypatch):
    backbone = Backbone(build_backbone(weights), FLOAT, PixelSettings(64), 1, 2048)
    before = backbone.key
    monkeypatch.setattr("onnxruntime.__version__", "99.0")
    assert backbone.key != before


# ---- the runtime


def test_the_chosen_runtime_is_kept(weights, old_weights, options, monkeypatch):
    monkeypatch.setattr(backbone_module, "choose_runtime", lambda *_: INT8)
    assert recall_runtime([FLOAT, INT8], hold(weights), options) == INT8
    monkeypatch.setattr(backbone_module, "choose_runtime", lambda *_: FLOAT)
    assert recall_runtime([FLOAT, INT8], hold(weights), options) == INT8
    assert recall_runtime([FLOAT, INT8], hold(weights), replace(options, threads=1)) == FLOAT
    assert recall_runtime([FLOAT, INT8], hold(weights), replace(options, cache=None)) == FLOAT
    assert recall_runtime([FLOAT, INT8], hold(perturb(weights)), options) == INT8
    assert recall_runtime([FLOAT, INT8], hold(old_weights), options) == FLOAT


@pytest.mark.parametrize("content", ["", "[]", "{", '{"runtime": "abacus float32"}', "\udcff"])
def test_a_damaged_choice_is_made_again(weights, options, monkeypatch, content):
    monkeypatch.setattr(backbone_module, "choose_runtime", lambda *_: INT8)
    recall_runtime([FLOAT, INT8], hold(weights), options)
    [path] = (options.cache / "runtimes").iterdir()
    path.write_bytes(content.encode(errors="surrogateescape"))
    assert recall_runtime([FLOAT, INT8], hold(weights), options) == INT8


def test_one_runtime_is_not_timed(weights, options, monkeypatch):
    monkeypatch.setattr(backbone_module, "choose_runtime", lambda *_: pytest.fail("timed"))
    assert recall_runtime([FLOAT], hold(weights), options) == FLOAT


# ---- the ranges of int8


def test_ranges_are_kept_while_half_of_their_photos_are_there(weights, options, index, draw):
    first = recall_calibration(weights, options, index, draw)
    assert recall_calibration(weights, options, index, draw) == first
    fewer = index.without(dict.fromkeys(range(4), "gone"))
    assert recall_calibration(weights, options, fewer, draw) == first
    assert draw.count == 1
    recall_calibration(weights, options, index.without(dict.fromkeys(range(5), "gone")), draw)
    assert draw.count == 2


def test_ranges_hold_for_one_size_and_one_resize_only(weights, options, index, draw):
    for pixels in (PixelSettings(64), PixelSettings(65), PixelSettings(64, "crop")):
        recall_calibration(weights, replace(options, pixels=pixels), index, draw)
    assert draw.count == 3


def test_ranges_hold_for_the_weights_that_gave_them_only(
    weights, old_weights, options, index, draw
):
    found = [
        recall_calibration(item, options, index, draw)
        for item in (weights, perturb(weights), old_weights)
    ]
    assert draw.count == 3
    assert len({str(item["ranges"]) for item in found}) == 3
    assert recall_calibration(weights, options, index, draw) == found[0]
    assert draw.count == 3


def test_nothing_is_kept_without_a_cache(weights, options, index, draw, tmp_path):
    for _ in range(2):
        recall_calibration(weights, replace(options, cache=None), index, draw)
    assert draw.count == 2
    assert not (tmp_path / "cache").exists()


# ---- the trunk made ready


def hold(weights):
    return Pretrained(weights, "", "", "")


def prepare(weights, options, index, draw):
    said = []
    return prepare_backbone(hold(weights), options, index, draw, said.append), said


def test_the_backbone_runs_as_it_was_asked_for(weights, options, index, draw, photos):
    backbone, said = prepare(weights, replace(options, precision="float32", views=2), index, draw)
    assert (backbone.runtime, backbone.views, backbone.pixels.side, said, draw.count) == (
        FLOAT,
        2,
        64,
        [],
        0,
    )
    assert backbone.open(1)(photos).shape == (12, 2, FEATURE_COUNT)


def test_int8_is_calibrated_on_the_photos(weights, options, index, draw):
    backbone, said = prepare(weights, options, index, draw)
    assert (backbone.runtime, said, draw.count) == (INT8, [], 1)
    assert b"QuantizeLinear" in backbone.model


def test_int8_that_loses_too_much_is_not_taken(weights, options, index, draw, monkeypatch):
    monkeypatch.setattr(backbone_module, "choose_runtime", lambda *_: INT8)
    monkeypatch.setattr(backbone_module, "measure_distance", lambda *_: 0.11)
    backbone, said = prepare(weights, replace(options, precision="auto"), index, draw)
    assert backbone.runtime == FLOAT
    assert b"QuantizeLinear" not in backbone.model
    assert said == [
        Notice("int8 changes the features by 11% on these photos, so they are computed in float")
    ]


def test_int8_that_was_asked_for_is_taken_whatever_it_loses(
    weights, options, index, draw, monkeypatch
):
    monkeypatch.setattr(backbone_module, "measure_distance", lambda *_: 0.5)
    assert prepare(weights, options, index, draw)[0].runtime == INT8


def test_the_guard_sees_a_bad_calibration(weights, options, index, photos):
    dark = recall_calibration(
        weights, replace(options, cache=None), index, lambda: (index.digests, photos // 64)
    )
    fair = recall_calibration(
        weights, replace(options, cache=None), index, lambda: (index.digests, photos)
    )
    assert (
        backbone_module._measure_int8_distance(weights, dark["ranges"], photos)
        > 3 * fair["distance"]
    )


def test_an_impossible_precision_is_refused_before_anything_is_read(weights, options, index, draw):
    with pytest.raises(SettingsError):
        prepare(weights, replace(options, precision="bfloat16"), index, draw)
    assert draw.count == 0


def test_a_cache_that_cannot_be_written_costs_nothing_but_the_cache(
    weights, options, index, draw, tmp_path
):
    (tmp_path / "full").write_text("a file where the folder should be")
    backbone, _ = prepare(weights, replace(options, cache=tmp_path / "full"), index, draw)
    assert backbone.runtime == INT8


# ---- networks that are not described


@pytest.fixture
def foreign():
    return parse_foreign(write_cnn(), "theirs.onnx")


def prepare_foreign(network, options, index, draw, monkeypatch, others):
    """Prepare a network where another engine, too, is said to be here: what opens it is given."""
    able = [FLOAT, INT8, OTHER]
    monkeypatch.setattr(backbone_module, "list_runtimes", lambda *_: able)
    opened = backbone_module.open_graph

    def open_either(model, runtime, threads):
        return opened(model, FLOAT, threads) if runtime == FLOAT else others(model, threads)

    monkeypatch.setattr(backbone_module, "open_graph", open_either)
    monkeypatch.setattr(backbone_module, "choose_runtime", lambda models, *_: list(models)[-1])
    options = replace(options, precision="auto", engine="auto")
    return prepare_backbone(network, options, index, draw, lambda event: None)


OTHER = Runtime("openvino", "float32")


def test_a_graph_alone_takes_another_engine_that_agrees(foreign, options, index, draw, monkeypatch):
    found = prepare_foreign(
        foreign, options, index, draw, monkeypatch, lambda model, n: open_graph(model, FLOAT, n)
    )
    assert found.runtime == OTHER
    assert found.feature_count == foreign.feature_count
    assert draw.count == 1


def refuse(model, threads):
    raise RuntimeError("no such operator")


def distort(model, threads):
    run = open_graph(model, FLOAT, threads)
    return lambda pixels: 1.3 * run(pixels)


@pytest.mark.parametrize("others", [refuse, distort])
def test_an_engine_that_does_not_agree_is_left_out(
    foreign, options, index, draw, monkeypatch, others
):
    found = prepare_foreign(foreign, options, index, draw, monkeypatch, others)
    assert found.runtime == FLOAT
    again = prepare_foreign(foreign, options, index, draw, monkeypatch, others)
    assert again.key == found.key
    assert draw.count == 1  # what was seen is kept


def test_an_engine_that_is_asked_for_and_does_not_agree_is_refused(
    foreign, options, index, draw, monkeypatch
):
    monkeypatch.setattr(backbone_module, "list_runtimes", lambda *_: [OTHER])
    opened = backbone_module.open_graph
    monkeypatch.setattr(
        backbone_module,
        "open_graph",
        lambda model, runtime, n: refuse(model, n) if runtime == OTHER else opened(model, FLOAT, n),
    )
    with pytest.raises(WeightsError, match=r"openvino float32 does not compute theirs\.onnx"):
        prepare_backbone(foreign, options, index, draw, lambda event: None)


def test_features_are_as_far_apart_as_heads_see_it():
    rng = np.random.default_rng(0)
    exact = 100 + rng.normal(size=(32, 1, 50)) * np.linspace(0.1, 1, 50)
    moved = exact + 0.1 * rng.normal(size=exact.shape)
    assert measure_distance(moved, exact) < 0.002
    assert 0.1 < measure_shift(moved, exact) < 0.6
    assert measure_shift(exact[:1] + 1, exact[:1]) == pytest.approx(0.01, rel=0.1)


def test_features_that_float16_does_not_tell_apart_are_told(foreign, options, index, draw):
    said = []
    floats = replace(options, precision="float32")
    prepare_backbone(foreign, floats, index, draw, said.append)
    assert not said
    writer = ModelWriter()
    x = writer.add("GlobalAveragePool", writer.stages("photo"))
    x = writer.add("Add", x, writer.keep(30_000, np.float32))
    payload = writer.write(writer.dense(writer.add("Flatten", x), WIDTHS[-1], 10))
    flat = parse_foreign(payload, "theirs.onnx", taps=["t11"])
    prepare_backbone(flat, floats, index, draw, said.append)
    [notice] = said
    assert notice.message.startswith("the features of theirs.onnx differ so little")
