"""Whole runs on a cache that a disk has damaged: the same model as ever, and no traceback."""

import shutil
import time
from dataclasses import replace

import pytest

from squeezetune.audit.audit import check
from squeezetune.training import train

pytestmark = pytest.mark.usefixtures("no_plots")


def flip_bits(contents, at):
    """Flip a bit of every file, at this share of its length."""
    damaged = [bytearray(content) for content in contents]
    for content in damaged:
        content[min(int(at * len(content)), len(content) - 1)] ^= 8
    return damaged


def zero_blocks(contents, at):
    """Lose a block of every file, at this share of its length."""
    starts = [int(at * len(content)) // 512 * 512 for content in contents]
    return [c[:start] + bytes(len(c[start : start + 512])) + c[start + 512 :]
            for c, start in zip(contents, starts, strict=True)]  # fmt: skip


def change_places(contents, at):
    """Give every file the content of another one."""
    return [*contents[1:], contents[0]]


@pytest.fixture(scope="module")
def used(shape_folder, fixed_settings, tmp_path_factory):
    """Train and check once, then once more at another size; returns the cache, the settings, and
    what came of it.
    """
    folder = tmp_path_factory.mktemp("used")
    time.sleep(3)  # digests of files that have just changed are not remembered
    settings = [replace(fixed_settings, precision="int8", image_side=side) for side in (64, 72)]
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SQUEEZETUNE_CACHE", str(folder / "cache"))
        results = [
            run(shape_folder, folder / f"model-{each.image_side}", each) for each in settings
        ]
    return folder / "cache", settings, results


def run(photos, output, settings):
    """Do what a user does; returns the model's bytes and what the check says."""
    train(photos, output, settings)
    found = check(photos, output.with_name(f"{output.name}-check"), settings)
    return (
        (output / "model.onnx").read_bytes(),
        (output / "network.safetensors").read_bytes(),
        found.findings,
    )


@pytest.mark.parametrize(
    ("damage", "at"),
    [
        pytest.param(flip_bits, 0.5, marks=pytest.mark.slow),
        pytest.param(flip_bits, 1.0, marks=pytest.mark.slow),
        pytest.param(zero_blocks, 0.3, marks=pytest.mark.slow),
        pytest.param(change_places, 0, marks=pytest.mark.slow),
    ],
)
def test_a_damaged_cache_gives_the_same_model(
    used, shape_folder, tmp_path, monkeypatch, damage, at
):
    kept, settings, results = used
    cache = shutil.copytree(kept, tmp_path / "cache")
    monkeypatch.setenv("SQUEEZETUNE_CACHE", str(cache))
    files = sorted(path for path in cache.rglob("*") if path.is_file())
    kinds = {path.relative_to(cache).parts[0] for path in files}
    assert kinds >= {
        "features",
        "looks",
        "near-duplicates",
        "calibrations",
        "digests",
        "measurements",
    }
    for kind in kinds:
        paths = [path for path in files if path.relative_to(cache).parts[0] == kind]
        for path, content in zip(
            paths, damage([path.read_bytes() for path in paths], at), strict=True
        ):
            path.write_bytes(content)
    for number, each in enumerate(settings):
        assert run(shape_folder, tmp_path / f"model-{number}", each) == results[number]
