import hashlib
import json
import multiprocessing
import os
import random
import time
import zipfile
from dataclasses import fields, replace
from io import BytesIO
from itertools import groupby

import numpy as np
import pytest
from click.testing import CliRunner
from PIL import Image, ImageOps
from sessions import open_session

import squeezetune.training as training_module
from squeezetune.cli.main import main
from squeezetune.data.index import index_photos
from squeezetune.data.split import split_index
from squeezetune.errors import ArtifactError, ClassesError, SettingsError, SourceError
from squeezetune.events import ModelMeasured, Notice, StageAdvanced, StageFinished, StageStarted
from squeezetune.model.classifier import load
from squeezetune.network import features
from squeezetune.settings import Settings
from squeezetune.system.store import RowStore
from squeezetune.training import train

FILES = {
    "model.json",
    "model.onnx",
    "network.safetensors",
    "parts.safetensors",
    "report.json",
    "report.html",
}
PLOTS = {"confusion_matrix.png", "confusion_matrix_normalised.png", "precision_recall.png"}
pytestmark = pytest.mark.usefixtures("no_plots")


def read_state(folder):
    """Read all that can be seen of a folder: names, contents, times and rights."""
    return {
        str(path.relative_to(folder)): (
            path.stat().st_mtime_ns,
            path.stat().st_mode,
            path.read_bytes() if path.is_file() else b"",
        )
        for path in folder.rglob("*")
    }


def read_models(folder):
    return [(folder / name).read_bytes() for name in ("network.safetensors", "model.onnx")]


def cut_again(folder, settings, executor):
    index = index_photos(folder, executor=executor)
    return index, split_index(
        index, validation=settings.validation, test=settings.test, seed=settings.seed
    )


# ---- what a run leaves


def test_the_artifact_is_complete(model_folder):
    assert {path.name for path in model_folder.iterdir()} == FILES | {"plots"}
    assert {path.name for path in (model_folder / "plots").iterdir()} == PLOTS
    manifest = json.loads((model_folder / "model.json").read_bytes())
    assert set(manifest["files"]) == FILES - {"model.json"} | {f"plots/{name}" for name in PLOTS}
    for name, sha256 in manifest["files"].items():
        assert hashlib.sha256((model_folder / name).read_bytes()).hexdigest() == sha256
    assert manifest["class_names"] == ["box", "disc", "spike"]
    assert (
        manifest["data"]["train"] + manifest["data"]["validation"] + manifest["data"]["test"] == 60
    )


def test_no_file_is_a_pickle_or_knows_where_it_was_made(model_folder, shape_folder):
    for name in ("model.onnx", "network.safetensors", "model.json"):
        payload = (model_folder / name).read_bytes()
        assert not payload.startswith(b"\x80")
        assert str(shape_folder).encode() not in payload


def test_the_reported_accuracy_is_that_of_the_file(
    model_folder, shape_folder, fixed_settings, executor
):
    report = json.loads((model_folder / "report.json").read_bytes())
    index, split = cut_again(shape_folder, fixed_settings, executor)
    session = open_session(model_folder / "model.onnx")
    correct, confusion = 0, np.zeros((3, 3), int)
    for at in split.test:
        pixels = np.asarray(Image.open(shape_folder / index.names[at]).convert("RGB"))
        [[probabilities]] = [session.run(None, {"image": pixels[None]})[0]]
        confusion[index.labels[at], probabilities.argmax()] += 1
        correct += probabilities.argmax() == index.labels[at]
    assert report["test"]["count"] == len(split.test) == 12
    assert report["test"]["accuracy"] == correct / len(split.test)
    assert report["test"]["confusion"] == confusion.tolist()


def test_shapes_are_learnt(model_folder):
    assert load(model_folder).report["test"]["accuracy"] >= 0.8


def test_the_file_agrees_with_the_path_it_was_trained_by(model_folder):
    agreement = load(model_folder).report["model"]["agreement"]
    assert agreement["top1"] == 1
    assert 0 <= agreement["mean_difference"] < 0.005


def test_the_report_counts_every_image(model_folder, shape_folder):
    report = load(model_folder).report
    assert report["data"]["images"] == sum(report["data"]["parts"].values()) == 60
    assert report["data"]["side"] == {"smallest": 72, "median": 72, "largest": 72}
    assert sum(sum(row) for row in report["test"]["confusion"]) == report["data"]["parts"]["test"]
    per_class = report["test"]["per_class"]
    assert sum(row["train"] + row["validation"] + row["test"] for row in per_class) == 60
    assert str(shape_folder) in report["command"]
    assert "--image-side 64" in report["command"]
    assert report["settings"]["image_side"] == 64
    assert sum(item["chosen"] for item in report["model"]["candidates"]) == 1


def test_the_photos_are_not_touched(write_shapes, tmp_path, fixed_settings, monkeypatch):
    monkeypatch.chdir(tmp_path)
    photos = write_shapes(tmp_path / "photos", 6)
    (photos / "notes.txt").write_text("no image")
    before = read_state(photos)
    train(photos, settings=fixed_settings)
    assert read_state(photos) == before
    assert sorted(path.name for path in tmp_path.iterdir()) == ["photos", "photos-model"]


def test_a_model_is_replaced_by_the_next_run(write_shapes, tmp_path, fixed_settings):
    photos = write_shapes(tmp_path / "photos", {"box": 6, "disc": 6})
    assert train(photos, tmp_path / "model", fixed_settings).class_names == ("box", "disc")
    write_shapes(photos, {"spike": 6})
    assert train(photos, tmp_path / "model", fixed_settings).class_names == ("box", "disc", "spike")
    assert {path.name for path in tmp_path.iterdir()} == {"photos", "model"}


# ---- the same again


def test_runs_are_repeatable_with_cold_warm_and_no_cache(
    model_folder, shape_folder, tmp_path, fixed_settings, empty_cache
):
    expected = read_models(model_folder)
    for name, use_cache in (("cold", True), ("warm", True), ("none", False)):
        train(shape_folder, tmp_path / name, fixed_settings, use_cache=use_cache)
        assert read_models(tmp_path / name) == expected, name


def test_without_a_cache_nothing_is_kept(shape_folder, tmp_path, fixed_settings, empty_cache):
    train(shape_folder, tmp_path / "model", fixed_settings, use_cache=False)
    assert not empty_cache.exists()


def test_order_and_names_of_files_do_not_matter(
    shape_folder, model_folder, tmp_path, fixed_settings
):
    for number, path in enumerate(sorted(shape_folder.rglob("*.png"), reverse=True)):
        copy = tmp_path / "photos" / path.parent.name / f"{number}.png"
        copy.parent.mkdir(parents=True, exist_ok=True)
        copy.write_bytes(path.read_bytes())
    renamed = train(tmp_path / "photos", tmp_path / "model", fixed_settings).report
    original = load(model_folder).report
    assert renamed["data"]["fingerprint"] == original["data"]["fingerprint"]
    assert renamed["test"]["confusion"] == original["test"]["confusion"]


def test_the_seed_changes_the_split(shape_folder, tmp_path, fixed_settings, model_folder):
    train(shape_folder, tmp_path / "model", replace(fixed_settings, seed=1))
    assert read_models(tmp_path / "model") != read_models(model_folder)


# ---- what goes wrong


@pytest.mark.parametrize("inside", [".", "model", "box/model", "box/../model"])
def test_a_model_among_the_photos_is_refused(write_shapes, tmp_path, inside, fixed_settings):
    photos = write_shapes(tmp_path / "photos", 3)
    before = read_state(photos)
    with pytest.raises(SettingsError, match="lies inside the photos' folder"):
        train(photos, photos / inside, fixed_settings)
    assert read_state(photos) == before


def test_a_model_among_the_photos_by_a_link_is_refused(write_shapes, tmp_path, fixed_settings):
    photos = write_shapes(tmp_path / "photos", 3)
    (tmp_path / "link").symlink_to(photos)
    with pytest.raises(SettingsError):
        train(photos, tmp_path / "link" / "model", fixed_settings)


def test_a_target_that_cannot_be_is_refused_before_anything_is_read(
    shape_folder, tmp_path, fixed_settings
):
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis" / "thesis.tex").write_text("years of work")
    said = []
    with pytest.raises(ArtifactError):
        train(shape_folder, tmp_path / "thesis", fixed_settings, listen=said.append)
    assert said == []


def test_photos_that_are_not_there(tmp_path, fixed_settings):
    with pytest.raises(SourceError):
        train(tmp_path / "nowhere", tmp_path / "model", fixed_settings)
    assert list(tmp_path.iterdir()) == []


def test_broken_images_are_in_the_report(write_shapes, tmp_path, fixed_settings):
    photos = write_shapes(tmp_path / "photos", 10)
    (photos / "box" / "notes.txt").write_text("not an image")
    (photos / "disc" / "003.png").write_bytes((photos / "disc" / "003.png").read_bytes()[:-3000])
    (photos / "spike" / "empty.jpg").write_bytes(b"")
    report = train(photos, tmp_path / "model", fixed_settings).report
    skipped = {item["name"]: item["reason"] for item in report["data"]["skipped"]}
    assert set(skipped) == {"box/notes.txt", "disc/003.png", "spike/empty.jpg"}
    assert skipped["spike/empty.jpg"] == "the file is empty"
    assert all(skipped.values())
    assert report["data"]["images"] == 29


@pytest.mark.parametrize("precision", ["float32", "int8"])
def test_a_class_without_a_readable_image_is_an_error(
    write_shapes, tmp_path, fixed_settings, precision
):
    photos = write_shapes(tmp_path / "photos", 5)
    for path in (photos / "disc").iterdir():
        path.write_bytes(path.read_bytes()[:500])
    with pytest.raises(ClassesError, match="disc"):
        train(photos, tmp_path / "model", replace(fixed_settings, precision=precision))
    assert not (tmp_path / "model").exists()


@pytest.mark.parametrize("precision", ["float32", "int8"])
def test_no_readable_image_at_all_is_an_error(write_shapes, tmp_path, fixed_settings, precision):
    photos = write_shapes(tmp_path / "photos", 3)
    for path in photos.rglob("*.png"):
        path.write_bytes(path.read_bytes()[:500])
    with pytest.raises((ClassesError, SourceError)):
        train(photos, tmp_path / "model", replace(fixed_settings, precision=precision))


def test_a_full_disk_for_the_cache_costs_the_cache_and_not_the_run(
    shape_folder, model_folder, tmp_path, fixed_settings, monkeypatch
):
    (tmp_path / "cache").write_text("a file where the folder should be")
    monkeypatch.setenv("SQUEEZETUNE_CACHE", str(tmp_path / "cache"))
    train(shape_folder, tmp_path / "model", fixed_settings)
    assert read_models(tmp_path / "model") == read_models(model_folder)


def test_a_disk_that_fills_while_the_test_images_are_measured(
    shape_folder, tmp_path, fixed_settings, monkeypatch, empty_cache
):
    save = RowStore.save

    def fail_for_measurements(store, *rows):
        if "measurements" in store.folder.parts:
            raise OSError(28, "No space left on device")
        save(store, *rows)

    monkeypatch.setattr(RowStore, "save", fail_for_measurements)
    assert train(shape_folder, tmp_path / "model", fixed_settings).report["test"]["count"] == 12


# ---- unequal classes, and what is told meanwhile


def test_unequal_classes(write_shapes, tmp_path, fixed_settings):
    photos = write_shapes(tmp_path / "photos", {"box": 40, "disc": 15, "spike": 3})
    report = train(photos, tmp_path / "model", fixed_settings).report
    counts = {
        row["name"]: row["train"] + row["validation"] + row["test"]
        for row in report["test"]["per_class"]
    }
    assert counts == {"box": 40, "disc": 15, "spike": 3}
    assert all(
        min(row["train"], row["validation"], row["test"]) > 0 for row in report["test"]["per_class"]
    )
    assert "spike" in " ".join(report["test"]["warnings"])


def test_events_tell_the_story_in_order(write_shapes, tmp_path, fixed_settings, empty_cache):
    said = []
    train(
        write_shapes(tmp_path / "photos", 8), tmp_path / "model", fixed_settings, listen=said.append
    )
    [measured] = [event for event in said if isinstance(event, ModelMeasured)]
    said.remove(measured)
    assert 0 <= measured.low <= measured.accuracy <= measured.high <= 1
    stages = [(stage, list(events)) for stage, events in groupby(said, lambda event: event.stage)]
    assert [stage for stage, _ in stages] == [
        "reading", "preparing", "features", "near-duplicates", "head", "measuring", "report",
    ]  # fmt: skip
    for _, (first, *middle, last) in stages:
        assert isinstance(first, StageStarted)
        assert isinstance(last, StageFinished)
        assert last.seconds >= 0
        assert all(isinstance(event, StageAdvanced) for event in middle)
        done = [event.done for event in middle]
        assert done == sorted(done)
        assert all(0 < count <= first.total for count in done)


@pytest.mark.slow
def test_a_budget_leaves_its_forecast_beside_the_truth(shape_folder, tmp_path, fixed_settings):
    settings = replace(fixed_settings, head="linear", views="auto", layers="head", budget="5m")
    report = train(
        shape_folder, tmp_path / "model", settings, use_cache=False
    ).report  # nothing is known yet
    plan, total = report["plan"], report["total_seconds"]
    forecast = sum(part["forecast_s"] for part in plan["parts"])
    assert (plan["budget_s"], plan["forecast_s"]) == (
        300,
        pytest.approx(forecast, abs=0.01),
    )  # each is rounded
    timings = {item["stage"]: item["seconds"] for item in report["timings"]}
    timings["near-duplicates"] += timings["looks"]  # of the test images, which nobody else looks at
    assert [part["part"] for part in plan["parts"]] == [
        "reading", "preparing", "features", "near-duplicates", "head", "measuring", "report",
    ]  # fmt: skip
    for part in plan["parts"]:
        assert part["seconds"] == pytest.approx(timings.get(part["part"]), abs=0.002)
        assert part["forecast_s"] > 0
    ends = [0, *(item["ended_s"] for item in report["timings"]), total]
    assert ends == sorted(ends)


@pytest.mark.slow
def test_a_budget_that_is_too_short_for_a_few_photos_changes_nothing_but_the_first_line(
    shape_folder, tmp_path, fixed_settings, monkeypatch
):
    """As a user does: a budget of seconds, of which the fixed costs alone take more."""
    monkeypatch.setattr(
        "squeezetune.planning.planner.PATIENCE_S", 1e9
    )  # the machine of a test may be busy
    settings = replace(fixed_settings, layers="head")
    free = train(shape_folder, tmp_path / "free", settings).report
    words = [
        "train",
        str(shape_folder),
        "--output",
        str(tmp_path / "short"),
        *list_options(settings),
        "--budget",
        "1s",
    ]
    result = CliRunner().invoke(main, words)
    assert result.exit_code == 0, result.output
    report = load(tmp_path / "short").report
    first, second, *_ = result.stdout.splitlines()
    assert first == report["plan"]["shortage"]["words"]
    assert first.startswith("1s is too short here for all photos, which need about ")
    assert "recognised" in second
    assert first in (tmp_path / "short" / "report.html").read_text()
    shortage = report["plan"]["shortage"]
    assert (
        shortage["used"]
        == shortage["photos"]
        == free["data"]["parts"]["train"] + free["data"]["parts"]["validation"]
    )
    assert report["data"]["parts"] == free["data"]["parts"]
    assert report["test"]["accuracy"] >= free["test"]["accuracy"]


def list_options(settings):
    """Write settings as options of the command line."""
    words = [
        (f"--{item.name.replace('_', '-')}", str(getattr(settings, item.name)))
        for item in fields(settings)
        if getattr(settings, item.name) != item.default
    ]
    return [word for pair in words for word in pair]


def test_a_listener_that_fails_stops_the_run_and_leaves_nothing(
    write_shapes, tmp_path, fixed_settings
):
    def listen(event):
        if isinstance(event, StageStarted) and event.stage == "measuring":
            raise KeyboardInterrupt

    photos = write_shapes(tmp_path / "photos", 5)
    with pytest.raises(KeyboardInterrupt):
        train(photos, tmp_path / "model", fixed_settings, listen=listen)
    assert [path.name for path in tmp_path.iterdir()] == ["photos"]


# ---- killed at any moment

# Processes that are forked from one that has loaded all libraries, where the system can fork.
METHODS = multiprocessing.get_all_start_methods()
PROCESSES = multiprocessing.get_context("forkserver" if "forkserver" in METHODS else "spawn")
if "forkserver" in METHODS:
    PROCESSES.set_forkserver_preload([__name__])


def train_slowly(photos, output, cache):
    """Train in small steps, all of which are kept."""
    os.environ["SQUEEZETUNE_CACHE"] = str(cache)
    features.SEGMENT_BYTES = 1
    settings = Settings(
        backbone="squeezenet1_1",
        image_side=160,
        validation=0.2,
        test=0.2,
        engine="onnxruntime",
        precision="float32",
        threads=2,
    )
    train(photos, output, settings)


class KilledRuns:
    """Training runs in processes of their own, which are killed, and what is seen meanwhile."""

    def __init__(self, photos, output):
        self.photos, self.output = photos, output

    def start(self, cache):
        process = PROCESSES.Process(target=train_slowly, args=(self.photos, self.output, cache))
        process.start()
        return process

    def watch(self, process, seconds):
        """Look at the output for some time: whatever can be seen of it must be a whole model."""
        end = time.monotonic() + seconds
        while process.is_alive() and time.monotonic() < end:
            self.look()
            time.sleep(0.005)

    def look(self):
        if (self.output / "model.json").exists():
            assert load(self.output).class_names == ("box", "disc", "spike")

    def kill(self, process):
        process.kill()
        process.join()
        self.look()

    def finish(self, process):
        self.watch(process, 60)
        process.join(1)
        assert process.exitcode == 0
        self.look()


def kill_and_compare(shape_folder, tmp_path, kills):
    """Kill runs at random moments; the run that is left alone then must end as if nothing had
    been.
    """
    clean = KilledRuns(shape_folder, tmp_path / "clean")
    process = clean.start(tmp_path / "clean-cache")
    start = time.monotonic()
    clean.finish(process)
    length = time.monotonic() - start
    runs, rng = KilledRuns(shape_folder, tmp_path / "killed"), random.Random(0)
    for number in range(kills):
        process = runs.start(tmp_path / "killed-cache")
        runs.watch(process, length * (number + rng.random()) / kills)
        runs.kill(process)
    runs.finish(runs.start(tmp_path / "killed-cache"))
    assert read_models(tmp_path / "killed") == read_models(tmp_path / "clean")
    hidden = [path.name for path in tmp_path.iterdir() if path.name.startswith(".")]
    assert hidden == []


@pytest.mark.slow
def test_twenty_killed_runs_leave_nothing_half_written(shape_folder, tmp_path):
    kill_and_compare(shape_folder, tmp_path, kills=20)


@pytest.mark.slow
def test_a_killed_run_goes_on_where_it_stopped(shape_folder, tmp_path, fixed_settings, monkeypatch):
    runs, cache = KilledRuns(shape_folder, tmp_path / "model"), tmp_path / "cache"
    process = runs.start(cache)
    while process.is_alive() and len(list(cache.rglob("*.npy"))) < 4:
        time.sleep(0.001)
    runs.kill(process)
    kept = sum(len(np.load(path)) for path in cache.rglob("features/*/*.npy"))
    assert kept >= 4
    monkeypatch.setenv("SQUEEZETUNE_CACHE", str(cache))
    said = []
    train(
        shape_folder,
        tmp_path / "model",
        replace(fixed_settings, image_side=160),
        listen=said.append,
    )
    [total] = [
        event.total
        for event in said
        if isinstance(event, StageStarted) and event.stage == "features"
    ] or [0]
    assert total == 60 - kept


# ---- real photos


def extract_objects(archive, folder, objects, views):
    """Extract the first views of the first objects of each of ETH-80's classes; names are
    <class><object>/<view>.
    """
    with zipfile.ZipFile(archive) as file:
        names = sorted(name for name in file.namelist() if name.endswith(".jpg"))
        photos = {
            thing: list(group) for thing, group in groupby(names, lambda name: name.split("/")[1])
        }
        for _, things in groupby(photos, lambda thing: thing.rstrip("0123456789")):
            for thing in list(things)[:objects]:
                file.extractall(folder, photos[thing][:views])
    return folder / "eth80-cropped256"


@pytest.fixture(scope="module")
def eth80(real_data, tmp_path_factory):
    return extract_objects(
        real_data / "eth80.zip", tmp_path_factory.mktemp("eth80"), objects=2, views=10
    )


@pytest.mark.slow
@pytest.mark.parametrize("precision", ["float32", "auto"])
def test_real_objects_are_learnt_and_the_file_agrees(eth80, tmp_path, precision):
    settings = Settings(image_side=128, test=0.4, precision=precision)
    report = train(eth80, tmp_path / "model", settings, class_pattern="^([a-z]+)").report
    assert report["class_names"] == ["apple", "car", "cow", "cup", "dog", "horse", "pear", "tomato"]
    assert report["data"]["images"] == 160
    assert report["test"]["accuracy"] > 0.95
    assert report["model"]["agreement"]["top1"] >= 0.995
    assert report["model"]["agreement"]["mean_difference"] <= 0.02


@pytest.mark.slow
def test_eth80_whole_objects_held_out(real_data, tmp_path):
    photos = extract_objects(real_data / "eth80.zip", tmp_path / "eth80", objects=10, views=41)
    settings = Settings(test=0.2, group_by="^([a-z]+[0-9]+)/")
    report = train(photos, tmp_path / "model", settings, class_pattern="^([a-z]+)").report
    assert report["data"]["images"] == 3280
    assert report["data"]["groups"] == 80
    assert report["test"]["accuracy"] > 0.9
    assert report["model"]["agreement"]["top1"] >= 0.995
    assert report["model"]["agreement"]["mean_difference"] <= 0.02


@pytest.mark.slow
def test_cifar10_small_photos_with_little_room(real_data, tmp_path):
    with zipfile.ZipFile(real_data / "cifar10.zip") as file:
        for name in file.namelist():
            if name.endswith("00.jpg") or name.endswith("50.jpg"):
                path = tmp_path / name
                path.parent.mkdir(parents=True, exist_ok=True)
                Image.open(BytesIO(file.read(name))).save(path, "PNG")
    report = train(tmp_path / "cifar10", tmp_path / "model").report
    assert report["model"]["image_side"] == 128
    assert report["test"]["accuracy"] > 0.6


# ---- copies and near-duplicates


@pytest.fixture
def copied_shapes(write_shapes, tmp_path):
    """Write shapes and, of the first four of each, a copy that is mirrored and of another
    format.
    """
    folder = write_shapes(tmp_path / "photos", 20)
    for path in sorted(folder.rglob("00[0-3].png")):
        ImageOps.mirror(Image.open(path)).save(
            path.with_name(f"copy-of-{path.stem}.jpg"), quality=90
        )
    return folder


def test_near_duplicates_are_in_one_part(copied_shapes, tmp_path, fixed_settings, monkeypatch):
    splits = []
    cut = training_module.split_index

    def note_split(index, **how):
        splits.append((index, cut(index, **how)))
        return splits[-1][1]

    monkeypatch.setattr(training_module, "split_index", note_split)
    report = train(copied_shapes, tmp_path / "model", fixed_settings).report
    index, split = splits[-1]
    part_of = {
        index.names[at]: part
        for part in ("train", "validation", "test")
        for at in getattr(split, part)
    }
    copies = [name for name in index.names if "copy-of-" in name]
    assert len(copies) == 12
    assert all(
        part_of[name] == part_of[name.replace("copy-of-", "").replace("jpg", "png")]
        for name in copies
    )
    assert report["data"]["near_duplicates"] >= 24
    assert report["data"]["leaks"] == {"validation": 0, "test": 0, "test_without": None}


def test_leaks_of_a_given_split_are_told_with_what_is_left_without(
    copied_shapes, tmp_path, fixed_settings
):
    given = tmp_path / "given"
    for path in sorted(copied_shapes.rglob("*.*")):
        number = int(path.stem[-3:])
        part = "test" if "copy" in path.name or number >= 16 else "val" if number >= 12 else "train"
        target = given / part / path.parent.name / path.name
        target.parent.mkdir(parents=True, exist_ok=True)
        path.rename(target)
    said = train(given, tmp_path / "model", fixed_settings).report["data"]
    assert said["parts"] == {"train": 36, "validation": 12, "test": 24}
    assert (said["leaks"]["test"], said["leaks"]["validation"]) == (12, 0)
    assert said["leaks"]["test_without"]["images"] == 12
    page = (tmp_path / "model" / "report.html").read_text()
    assert "12 of 24 test photos have a copy, a near-duplicate" in page


def test_near_duplicates_may_be_ignored(copied_shapes, tmp_path, fixed_settings):
    settings = replace(fixed_settings, near_duplicates="ignored")
    report = train(copied_shapes, tmp_path / "model", settings).report
    assert (report["data"]["near_duplicates"], report["data"]["leaks"]["test"]) == (None, 0)


def test_classes_of_one_picture_are_parted_all_the_same(write_shapes, tmp_path, fixed_settings):
    folder, said = write_shapes(tmp_path / "photos", 1), []
    for path in sorted(folder.rglob("*.png")):
        image = Image.open(path).convert("RGB")
        for quality in range(60, 96, 4):
            image.save(path.with_name(f"{quality}.jpg"), quality=quality)
    report = train(folder, tmp_path / "model", fixed_settings, listen=said.append).report
    assert any(
        "so many photos are near-duplicates" in event.message
        for event in said
        if isinstance(event, Notice)
    )
    assert report["data"]["leaks"]["test"] == report["data"]["parts"]["test"]
    assert report["data"]["leaks"]["test_without"] is None
