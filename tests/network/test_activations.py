import importlib.util
from dataclasses import replace

import numpy as np
import pytest
from example_weights import perturb

from squeezetune.data.index import index_photos
from squeezetune.data.pixels import PixelSettings, load_pixels
from squeezetune.events import StageStarted, ignore_event
from squeezetune.network.activations import (
    KINDS,
    MARGIN,
    ActivationForm,
    ActivationOptions,
    compute_activations,
    draw_view,
    make_views,
    prepare_activations,
    recall_scales,
    round_to_bfloat16,
)
from squeezetune.network.backbone import Backbone, make_int8, measure_distance, measure_ranges
from squeezetune.network.graph import FEATURE_COUNT, build_activations, build_backbone
from squeezetune.network.inference import Runtime, open_outputs
from squeezetune.network.weights import detect_version

FLOAT, INT8 = Runtime("onnxruntime", "float32"), Runtime("onnxruntime", "int8")
PIXELS = PixelSettings(63)
RUNTIMES = [FLOAT, INT8]
if importlib.util.find_spec("openvino"):
    RUNTIMES += [Runtime("openvino", "float32"), Runtime("openvino", "int8")]


@pytest.fixture
def photos(photo_folder, executor):
    return index_photos(photo_folder, executor=executor)


def read_pixels(index):
    return np.stack([load_pixels(index.source, name, PIXELS)[0] for name in index.names])


@pytest.fixture
def draw(photos):
    """Draw all photos as the sample; count how often that is asked for."""

    def draw_counted():
        draw_counted.count += 1
        return photos.digests, read_pixels(photos)

    draw_counted.count = 0
    return draw_counted


def make_backbone(weights, photos, runtime=FLOAT):
    is_int8 = runtime.precision == "int8"
    int8 = (
        make_int8(measure_ranges(weights, read_pixels(photos)), runtime, PIXELS)
        if is_int8
        else None
    )
    return Backbone(build_backbone(weights, int8), runtime, PIXELS, 1, 2048, int8)


@pytest.fixture
def backbone(weights, photos):
    return make_backbone(weights, photos)


@pytest.fixture
def run(weights, backbone, photos, draw, executor, tmp_path):
    """Compute the activations of the photos, or of other ones."""

    def compute(options, index=photos, listen=ignore_event, positions=None, backbone=backbone):
        frozen = prepare_activations(weights, backbone, options, index, draw, tmp_path)
        return compute_activations(
            index, frozen, frozen.open_store(tmp_path), executor, listen, positions
        )

    return compute


def run_directly(weights, block, pixels, backbone):
    """Run images (n, side, side, 3) one by one: float activations (n, *shape) and taps (n, t)."""
    run = open_outputs(build_activations(weights, block, int8=backbone.int8), backbone.runtime, 1)
    results = [run(image[None]) for image in pixels]
    maps = np.concatenate([result[0][:, 0] for result in results])
    if len(results[0]) == 1:
        return maps, np.empty((len(maps), 0), np.float32)
    return maps, np.concatenate([result[1][:, 0] for result in results])


# ---- rows are what they were computed from


@pytest.mark.parametrize("runtime", RUNTIMES, ids=str)
@pytest.mark.parametrize(
    ("block", "kind"), [("fire5", "uint8"), ("fire5", "bfloat16"), ("conv1", "uint8")]
)
def test_rows_are_the_activations_of_each_image(weights, photos, run, block, kind, runtime):
    backbone = make_backbone(weights, photos, runtime)
    found = run(ActivationOptions(block, kind), backbone=backbone)
    order = np.random.default_rng(0).permutation(30)[:12]
    maps, taps = found.form.decode(found.rows.gather(order))
    expected, expected_taps = run_directly(weights, block, read_pixels(photos)[order], backbone)
    assert maps.shape == (12, 1, *found.form.shape) == (12, 1, *expected.shape[1:])
    assert (maps.dtype, taps.dtype) == (np.float32, np.float32)
    step = np.broadcast_to(
        found.form.scales / 255 if kind == "uint8" else 2**-7 * expected, expected.shape
    )
    assert (np.abs(maps[:, 0] - expected) <= 0.51 * step + 1e-2).all()
    np.testing.assert_allclose(taps[:, 0], expected_taps, rtol=2e-3, atol=1e-2)


def test_values_beyond_the_scale_are_cut_off(weights, photos):
    pixels = read_pixels(photos)[:2]
    [maps, _] = open_outputs(build_activations(weights, "fire5"), FLOAT, 1)(pixels)
    scales = np.maximum(maps.max(axis=(0, 1, 2, 3)) / 2, 1e-3).astype(np.float32)
    codes, _ = open_outputs(build_activations(weights, "fire5", scales=scales), FLOAT, 1)(pixels)
    assert (codes.dtype, codes.max()) == (np.uint8, 255)
    assert np.abs(codes - (maps * (255 / scales)).round().clip(0, 255)).max() <= 1


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_packed_is_split_and_decoded(kind):
    rng = np.random.default_rng(1)
    scales = rng.uniform(10, 20, 64).astype(np.float32)
    form = ActivationForm(kind, 3, (5, 4, 64), 256, scales if kind == "uint8" else None)
    values = rng.integers(0, 255, (7, 3, 5, 4, 64), np.uint8)
    values = values if kind == "uint8" else values * np.float32(1.37)
    taps = rng.uniform(0, 9, (7, 3, 256)).astype(np.float32)
    rows = form.pack(values, taps)
    assert (rows.dtype, rows.shape) == (np.uint8, (7, form.row_bytes))
    codes, halves = form.split(rows)
    assert np.shares_memory(codes, rows)
    assert np.shares_memory(halves, rows)
    np.testing.assert_array_equal(codes, values if kind == "uint8" else round_to_bfloat16(values))
    maps, means = form.decode(rows)
    expected = values * (scales / 255) if kind == "uint8" else values
    np.testing.assert_allclose(maps, expected, rtol=2**-8)
    np.testing.assert_allclose(means, taps, rtol=2**-11)
    views = rng.integers(0, 3, 7)
    one, one_taps = form.decode(rows, views)
    np.testing.assert_array_equal(one, maps[np.arange(7), views])
    np.testing.assert_array_equal(one_taps, means[np.arange(7), views])


@pytest.mark.parametrize(
    ("value", "bits"),
    [
        (0.0, 0x0000),
        (1.0, 0x3F80),
        (1 + 2**-8, 0x3F80),  # a half: down to even
        (1 + 3 * 2**-8, 0x3F82),  # a half: up to even
        (1 + 2**-8 + 2**-20, 0x3F81),
        (1 + 2**-8 - 2**-20, 0x3F80),
        (2 - 2**-20, 0x4000),  # into the next exponent
        (3.0e38, 0x7F62),
    ],
)
def test_bfloat16_is_rounded_to_the_nearest_even(value, bits):
    assert round_to_bfloat16(np.array([value], np.float32))[0] == bits


# ---- views


def test_the_second_view_is_the_mirror_image(weights, photos, run, backbone):
    found = run(ActivationOptions("fire5", "bfloat16", views=2))
    maps, taps = found.form.decode(found.rows.gather(np.arange(4)))
    pixels = read_pixels(photos)[:4]
    for view, images in enumerate((pixels, np.ascontiguousarray(pixels[:, :, ::-1]))):
        expected, means = run_directly(weights, "fire5", images, backbone)
        np.testing.assert_allclose(maps[:, view], expected, rtol=2**-8, atol=1e-3)
        np.testing.assert_allclose(taps[:, view], means, rtol=2e-3, atol=1e-3)


def test_random_views_follow_and_are_those_of_content_and_seed(weights, photos, run, backbone):
    options = ActivationOptions("fire5", "bfloat16", views=1, extra_views=2, seed=3)
    found = run(options)
    maps, _ = found.form.decode(found.rows.gather(np.arange(5)))
    views = make_views(read_pixels(photos)[:5], photos.digests[:5], options)
    assert maps.shape[:2] == views.shape[:2] == (5, 3)
    for view in range(3):
        np.testing.assert_allclose(
            maps[:, view],
            run_directly(weights, "fire5", views[:, view], backbone)[0],
            rtol=2**-8,
            atol=1e-3,
        )
    assert measure_distance(maps[:, 1], maps[:, 2]) > 0.05


def test_a_random_view_depends_on_nothing_else(photos):
    pixels, options = read_pixels(photos), ActivationOptions("fire5", extra_views=3, seed=1)
    together = make_views(pixels, photos.digests, options)
    alone = make_views(pixels[7:8], photos.digests[7:8], options)
    np.testing.assert_array_equal(together[7:8], alone)
    fewer = make_views(pixels, photos.digests, replace(options, extra_views=1))
    np.testing.assert_array_equal(together[:, :2], fewer)
    other = make_views(pixels, photos.digests, replace(options, seed=2))
    np.testing.assert_array_equal(other[:, 0], together[:, 0])
    assert (other[:, 1:] != together[:, 1:]).any(axis=(2, 3, 4)).all()


def test_a_drawn_view_looks_like_its_image(photos):
    pixels, rng = read_pixels(photos)[0], np.random.default_rng(0)
    views = np.stack([draw_view(pixels, rng) for _ in range(200)])
    assert (views.shape, views.dtype) == ((200, *pixels.shape), np.uint8)
    nearer = [
        np.abs(view - pixels.astype(float)).mean()
        > np.abs(view - pixels[:, ::-1].astype(float)).mean()
        for view in views
    ]
    assert 60 < sum(nearer) < 140  # about half are mirrored
    assert np.abs(views.mean(axis=0) - pixels.mean(axis=(0, 1))).mean() < 60


def test_other_views_can_be_plugged_in(photos, run):
    found = run(
        ActivationOptions("conv1", "bfloat16", extra_views=1, draw=lambda pixels, rng: pixels)
    )
    maps, _ = found.form.decode(found.rows.gather(np.arange(30)))
    np.testing.assert_array_equal(maps[:, 1], maps[:, 0])


# ---- nothing is computed twice


def test_a_second_run_computes_nothing(photos, run, draw):
    said = []
    first = run(ActivationOptions("fire5"), listen=said.append)
    assert said[0] == StageStarted("activations", 30)
    said.clear()
    second = run(ActivationOptions("fire5"), listen=said.append)
    assert said == []
    np.testing.assert_array_equal(
        first.rows.gather(np.arange(30)), second.rows.gather(np.arange(30))
    )
    assert draw.count == 1


def test_new_photos_cost_what_is_new(photo_folder, run, executor, make_photo):
    first, said = run(ActivationOptions("fire5")), []
    (photo_folder / "owl" / "zzz.jpg").write_bytes(make_photo(700))
    index = index_photos(photo_folder, executor=executor)
    more = run(ActivationOptions("fire5"), index=index, listen=said.append)
    assert said[0] == StageStarted("activations", 1)
    np.testing.assert_array_equal(first.rows.gather(np.arange(30)), more.rows.gather(np.arange(30)))
    assert more.rows.gather(np.array([30])).any()


def test_positions_can_be_chosen(run):
    assert run(ActivationOptions("fire5"), positions=np.array([4, 9])).rows.missing.tolist() == [
        position for position in range(30) if position not in (4, 9)
    ]


def test_a_batch_of_one_is_the_same_as_a_batch_of_many(photos, run, tmp_path):
    options = ActivationOptions("fire5", "bfloat16")
    alone = run(options, positions=np.array([11])).rows.gather(np.array([11]))
    for path in (tmp_path / "activations").rglob("*.npy"):
        path.unlink()
    np.testing.assert_array_equal(run(options).rows.gather(np.array([11])), alone)


def test_the_key_names_all_that_activations_depend_on(
    weights, old_weights, backbone, photos, draw, monkeypatch
):
    def find_key(options, backbone=backbone, weights=weights):
        return prepare_activations(weights, backbone, options, photos, draw, None).key

    options = ActivationOptions("fire5")
    changed = [
        {"block": "fire4"},
        {"kind": "bfloat16"},
        {"views": 2},
        {"extra_views": 1},
        {"extra_views": 1, "seed": 1},
        {"draw": lambda pixels, rng: pixels},
    ]
    keys = [find_key(replace(options, **change)) for change in changed]
    keys += [find_key(options, replace(backbone, pixels=replace(PIXELS, resize="crop")))]
    keys += [find_key(options, make_backbone(weights, photos, INT8))]
    keys += [find_key(options, weights=other) for other in (perturb(weights), old_weights)]
    key = find_key(options)
    assert key == find_key(replace(options, seed=5, threads=7))  # neither matters here
    monkeypatch.setattr("PIL.__version__", "99.0")
    assert len({key, find_key(options), *keys}) == 12


# ---- the scales of uint8


def test_scales_are_kept_while_half_of_their_photos_are_there(weights, photos, draw, tmp_path):
    first = recall_scales(weights, PIXELS, "fire5", photos, draw, tmp_path)
    fewer = photos.without(dict.fromkeys(range(10), "gone"))
    np.testing.assert_array_equal(
        recall_scales(weights, PIXELS, "fire5", fewer, draw, tmp_path), first
    )
    assert draw.count == 1
    recall_scales(weights, PIXELS, "fire4", photos, draw, tmp_path)
    recall_scales(weights, PIXELS, "fire5", photos, draw, None)
    assert draw.count == 3


def test_scales_reach_beyond_the_largest_values_of_the_sample(weights, photos, draw, backbone):
    maps, _ = run_directly(weights, "fire5", read_pixels(photos), backbone)
    found = recall_scales(weights, PIXELS, "fire5", photos, draw, None)
    np.testing.assert_allclose(
        found, MARGIN * np.maximum(maps.max(axis=(0, 1, 2)), 1e-3), rtol=1e-3
    )
    assert found.dtype == np.float32


# ---- followed by the other blocks, they give the trunk's features


@pytest.mark.parametrize("block", ["conv1", "fire3", "fire5", "fire7", "fire8"])
def test_the_other_blocks_in_torch_give_the_features(
    either_weights, photos, draw, executor, tmp_path, block
):
    torch = pytest.importorskip("torch", reason="torch is an extra")
    from squeezetune.finetune.torch_network import build_network

    backbone, options = make_backbone(either_weights, photos), ActivationOptions(block, "bfloat16")
    frozen = prepare_activations(either_weights, backbone, options, photos, draw, tmp_path)
    found = compute_activations(photos, frozen, frozen.open_store(tmp_path), executor, ignore_event)
    maps, taps = found.form.decode(found.rows.gather(np.arange(30)), np.zeros(30, np.int64))
    network = build_network(either_weights, version=detect_version(either_weights))
    blocks = ("conv1", *(f"fire{number}" for number in range(2, 10)))
    places = {
        name: list(network.features).index(module)
        for name, module in network.list_blocks().items()
        if name != "classifier"
    }
    tapped = {places[name] for name in blocks[4:]}
    means, x = [taps], torch.from_numpy(maps).permute(0, 3, 1, 2)
    assert x.is_contiguous(memory_format=torch.channels_last)
    with torch.no_grad():
        for place in range(places[blocks[blocks.index(block) + 1]], 13):
            x = network.features[place](x)
            if place in tapped:
                means.append(x.mean((2, 3)).numpy())
    features = np.concatenate(means, axis=1)
    whole = open_outputs(build_backbone(either_weights), FLOAT, 1)
    expected = np.concatenate([whole(image[None])[0][:, 0] for image in read_pixels(photos)])
    assert features.shape == (30, FEATURE_COUNT)
    assert measure_distance(features, expected) < 0.004
