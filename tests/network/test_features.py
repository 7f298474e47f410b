from dataclasses import replace

import numpy as np
import pytest

from squeezetune.data import image_cache
from squeezetune.data.index import index_images, index_photos
from squeezetune.data.pixels import PixelSettings, load_indexed, load_pixels
from squeezetune.events import Notice, StageAdvanced, StageFinished, StageStarted, ignore_event
from squeezetune.network import features as features_module
from squeezetune.network.backbone import Backbone
from squeezetune.network.features import FeatureStores, compute_features
from squeezetune.network.graph import FEATURE_COUNT, build_backbone
from squeezetune.network.inference import Runtime
from squeezetune.system.store import RowStore


@pytest.fixture(scope="module")
def backbone(weights):
    return Backbone(
        build_backbone(weights, views=2),
        Runtime("onnxruntime", "float32"),
        PixelSettings(48),
        2,
        2048,
    )


@pytest.fixture
def store(tmp_path, backbone):
    return RowStore(tmp_path / "features", (backbone.views, FEATURE_COUNT))


@pytest.fixture
def photos(photo_folder, executor):
    return index_photos(photo_folder, executor=executor)


@pytest.fixture
def no_work(monkeypatch):
    """Make any decoding and any run of the network a failure."""
    monkeypatch.setattr(image_cache, "load_indexed", lambda *_: pytest.fail("an image was decoded"))
    monkeypatch.setattr(Backbone, "open", lambda *_: pytest.fail("the network was opened"))


@pytest.fixture
def decoded(monkeypatch):
    """List the names of the images that are decoded."""
    names = []

    def load_noted(index, position, pixels):
        names.append(index.names[position])
        return load_indexed(index, position, pixels)

    monkeypatch.setattr(image_cache, "load_indexed", load_noted)
    return names


def compute(index, backbone, store, executor, listen=ignore_event):
    return compute_features(index, backbone, FeatureStores(store), executor, 2, listen)


def assert_same(found, expected):
    np.testing.assert_array_equal(found.values, expected.values)
    np.testing.assert_array_equal(found.sizes, expected.sizes)
    assert found.failures == expected.failures


# ---- what is computed


def test_features_are_the_backbones_of_each_image(photos, backbone, executor):
    features = compute(photos, backbone, None, executor)
    run = backbone.open(1)
    pixels = np.stack(
        [load_pixels(photos.source, name, backbone.pixels)[0] for name in photos.names]
    )
    one_by_one = np.concatenate([run(image[None]) for image in pixels])
    np.testing.assert_allclose(features.values.astype(np.float32), one_by_one, rtol=2e-3, atol=2e-3)
    assert features.values.dtype == np.float16
    assert set(map(tuple, features.sizes.tolist())) == {(16, 12)}
    assert (features.failures, features.computed) == ({}, 30)


def test_one_image_at_a_time_is_the_same_as_all_at_once(photos, backbone, executor):
    together = compute(photos, backbone, None, executor)
    for at in (0, 7, 29):
        alone = compute(
            photos.without({other: "" for other in range(30) if other != at}),
            backbone,
            None,
            executor,
        )
        np.testing.assert_array_equal(alone.values[0], together.values[at])


def test_batches_are_always_full(photos, backbone, executor, monkeypatch):
    sizes, run = [], backbone.open(1)
    monkeypatch.setattr(
        Backbone, "open", lambda *_: lambda pixels: (sizes.append(len(pixels)), run(pixels))[1]
    )
    for count in (1, 7, 30):
        compute(photos.without(dict.fromkeys(range(count, 30), "")), backbone, None, executor)
    assert set(sizes) == {backbone.batch_size}


def test_the_engine_does_not_matter(photos, backbone, executor):
    class InOrder:
        def map(self, function, items):
            return map(function, items)

    assert_same(
        compute(photos, backbone, None, InOrder()), compute(photos, backbone, None, executor)
    )


def test_the_same_content_is_computed_once(photos, backbone, executor, make_photo, decoded):
    images = [
        make_photo(1),
        make_photo(2),
        make_photo(1),
        make_photo(1),
        make_photo(3),
        make_photo(2),
    ]
    features = compute(
        index_images(images, list("ababab"), executor=executor), backbone, None, executor
    )
    assert (len(decoded), features.computed) == (3, 3)
    for copy, first in ((2, 0), (3, 0), (5, 1)):
        np.testing.assert_array_equal(features.values[copy], features.values[first])
        np.testing.assert_array_equal(features.sizes[copy], features.sizes[first])
    assert np.abs(features.values[4] - features.values[0]).max() > 0.1


def test_broken_images_are_failures_with_reasons(
    photo_folder, backbone, store, executor, make_photo
):
    whole = index_photos(photo_folder, executor=executor)
    expected = compute(whole, backbone, None, executor)
    cut = make_photo(77, width=64, height=64)[:-200]
    for name in ("bee/3.jpg", "cow/0.jpg", "owl/0.jpg"):  # the last two are copies
        (photo_folder / name).write_bytes(cut if name < "c" else cut[:-50])
    broken = index_photos(photo_folder, executor=executor)
    for _ in range(2):  # failures are not kept, so the second run finds them again
        features = compute(broken, backbone, store, executor)
        bad = {broken.names.index(name) for name in ("bee/3.jpg", "cow/0.jpg", "owl/0.jpg")}
        assert features.failures == dict.fromkeys(sorted(bad), "the file is cut short")
        good = [at for at in range(30) if at not in bad]
        np.testing.assert_array_equal(features.values[good], expected.values[good])


def test_a_file_that_vanishes_is_a_failure(photos, photo_folder, backbone, executor):
    (photo_folder / "cow/4.jpg").unlink()
    assert compute(photos, backbone, None, executor).failures == {
        photos.names.index("cow/4.jpg"): "the file is gone"
    }


def test_no_readable_image_at_all(photo_folder, backbone, store, executor, make_photo):
    for path in photo_folder.rglob("*.jpg"):
        path.write_bytes(path.read_bytes()[:-120])
    features = compute(index_photos(photo_folder, executor=executor), backbone, store, executor)
    assert sorted(features.failures) == list(range(30))
    assert not store.folder.exists()


# ---- nothing is computed twice


def test_a_second_run_decodes_nothing_and_runs_nothing(photos, backbone, store, executor, request):
    first = compute(photos, backbone, store, executor)
    request.getfixturevalue("no_work")
    second = compute(photos, backbone, store, executor)
    assert_same(second, first)
    assert (first.computed, second.computed) == (30, 0)


def test_ten_new_photos_cost_ten(photo_folder, backbone, store, executor, make_photo, decoded):
    compute(index_photos(photo_folder, executor=executor), backbone, store, executor)
    decoded.clear()
    for number in range(10):
        (photo_folder / "cow" / f"new{number}.jpg").write_bytes(make_photo(500 + number))
    features = compute(index_photos(photo_folder, executor=executor), backbone, store, executor)
    assert sorted(decoded) == sorted(f"cow/new{number}.jpg" for number in range(10))
    assert features.computed == 10
    assert_same(
        features, compute(index_photos(photo_folder, executor=executor), backbone, None, executor)
    )


def test_renamed_photos_cost_nothing(photo_folder, backbone, store, executor, request):
    compute(index_photos(photo_folder, executor=executor), backbone, store, executor)
    for path in photo_folder.rglob("*.jpg"):
        path.rename(path.with_name(f"renamed-{path.name}"))
    request.getfixturevalue("no_work")
    assert (
        compute(index_photos(photo_folder, executor=executor), backbone, store, executor).computed
        == 0
    )


def test_a_photo_that_changes_under_its_name_is_computed(
    photo_folder, backbone, store, executor, make_photo
):
    before = compute(index_photos(photo_folder, executor=executor), backbone, store, executor)
    (photo_folder / "bee/0.jpg").write_bytes(make_photo(900))
    after = compute(index_photos(photo_folder, executor=executor), backbone, store, executor)
    assert after.computed == 1
    assert np.abs(after.values[0] - before.values[0]).max() > 0.1


def test_without_a_cache_everything_is_computed_again(
    photos, backbone, executor, decoded, own_cache
):
    compute(photos, backbone, None, executor)
    compute(photos, backbone, None, executor)
    assert len(decoded) == 60


def test_a_run_that_breaks_off_keeps_what_it_has(photos, backbone, store, executor, monkeypatch):
    small = replace(backbone, pixels=PixelSettings(200))  # batches of five
    monkeypatch.setattr(features_module, "SEGMENT_BYTES", 10 * store.row_bytes)

    def stop(event):
        if isinstance(event, StageAdvanced) and event.done >= 25:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        compute(photos, small, store, executor, stop)
    assert compute(photos, small, store, executor).computed <= 10


def test_rows_are_saved_when_time_has_passed(photos, backbone, store, executor, monkeypatch):
    monkeypatch.setattr(image_cache, "SAVE_EVERY_S", 0.0)
    compute(photos, replace(backbone, pixels=PixelSettings(200)), store, executor)
    assert len(list(store.folder.glob("*.npy"))) >= 30 / 5


# ---- a full disk, and what is said meanwhile


def test_a_full_disk_costs_the_cache_and_not_the_run(
    photos, backbone, store, executor, monkeypatch
):
    attempts, said = [], []

    def fail(*_):
        attempts.append(1)
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(RowStore, "save", fail)
    monkeypatch.setattr(features_module, "SEGMENT_BYTES", 1)
    features = compute(
        photos, replace(backbone, pixels=PixelSettings(200)), store, executor, said.append
    )
    assert len(features.values) == features.computed == 30
    [notice] = [event for event in said if isinstance(event, Notice)]
    assert "No space left on device" in notice.message
    assert len(attempts) == 1


def test_progress_is_told_from_nothing_to_all(photos, backbone, executor):
    said = []
    compute(photos, replace(backbone, pixels=PixelSettings(200)), None, executor, said.append)
    assert said[0] == StageStarted("features", 30)
    assert [event.done for event in said[1:-1]] == [5, 10, 15, 20, 25, 30]
    assert isinstance(said[-1], StageFinished)
