import json
import math
import os
import signal
import subprocess
import sys
import tempfile
import time
from dataclasses import replace

import numpy as np
import pytest
from click.testing import CliRunner
from example_weights import draw_weights
from fast_options import FAST
from safetensors import safe_open
from safetensors.numpy import load as unpack_tensors
from safetensors.numpy import save_file

from squeezetune.cli.main import main
from squeezetune.data.index import index_images
from squeezetune.data.split import split_train_validation
from squeezetune.errors import CheckpointError, SettingsError
from squeezetune.events import EpochFinished, Notice, StageStarted, ignore_event
from squeezetune.finetune.recipe import Recipe
from squeezetune.model.classifier import Classifier, load
from squeezetune.pipeline.context import open_context
from squeezetune.pipeline.fitting import make_files, make_manifest
from squeezetune.settings import Settings
from squeezetune.system.checkpoint import CheckpointFolder
from squeezetune.system.interrupts import STOPPING
from squeezetune.training import train

torch = pytest.importorskip("torch", reason="torch is an extra")
from squeezetune.finetune import loop as finetune  # noqa: E402
from squeezetune.finetune.batches import normalise  # noqa: E402
from squeezetune.finetune.tapped import TappedNetwork  # noqa: E402
from squeezetune.finetune.torch_network import SqueezeNet  # noqa: E402
from squeezetune.network import activations  # noqa: E402
from squeezetune.pipeline import stage as deepening  # noqa: E402

pytestmark = pytest.mark.usefixtures("no_plots", "usual_interrupts", "float32")

LAYERS = "all layers"
# What one run of three epochs is made of: 36 training images in batches of 8.
EPOCHS = 3.0


def digest(deepened):
    """Return all that was learnt, as bytes."""
    arrays = [*deepened.weights.values(), *(array for layer in deepened.layers for array in layer)]
    return b"".join(array.tobytes() for array in (*arrays, deepened.probabilities))


def count_checkpoints(folder):
    return len(list(folder.path.glob("checkpoint-*.json"))) if folder.path.exists() else 0


@pytest.fixture(scope="module")
def settings(fixed_settings):
    return replace(fixed_settings, layers="all", epochs=EPOCHS)


@pytest.fixture(scope="module")
def learn(make_learn, settings, tmp_path_factory):
    return make_learn(settings, tmp_path_factory.mktemp("deep-cache"))


@pytest.fixture(scope="module")
def whole(learn):
    """Learn without a stop: what came out, and what was said."""
    said = []
    return learn(said.append), said


def prefer_layers(learned):
    """Make the frozen layers' head look worse than it is, so that the trained layers are chosen."""
    chosen = replace(learned.head.chosen, is_correct=np.zeros_like(learned.head.chosen.is_correct))
    head = replace(learned.head, chosen=chosen)
    deepened = replace(learned.deepened.candidate, is_correct=np.ones_like(chosen.is_correct))
    better = replace(learned, head=head, trained=(replace(learned.deepened, candidate=deepened),))
    return make_files(better, open_context(Settings(), None, ignore_event))


# ---- what comes out


def test_layers_are_trained_behind_the_head(whole):
    learned, said = whole
    stages = [event.stage for event in said if isinstance(event, StageStarted)]
    assert stages == ["preparing", "features", "near-duplicates", "head", "pixels", LAYERS]
    epochs = [event for event in said if isinstance(event, EpochFinished) and event.stage == LAYERS]
    assert [(epoch.epoch, epoch.of) for epoch in epochs] == [(1, 3), (2, 3), (3, 3)]
    assert learned.deepened.candidate.history == tuple(epochs)
    assert learned.deepened.is_finished
    assert learned.deepened.probabilities.shape == (12, 3)
    np.testing.assert_allclose(learned.deepened.probabilities.sum(axis=1), 1, rtol=1e-5)


def test_the_stages_are_told_side_by_side(whole):
    learned, _ = whole
    frozen, trained = learned.stages
    assert (frozen.name, trained.name) == ("frozen layers", LAYERS)
    assert frozen.is_chosen is not trained.is_chosen
    assert trained.is_chosen is (learned.best is not None)
    assert len(frozen.is_correct_test) == 12
    assert trained.is_correct_test is None  # known of the file alone
    right = (
        learned.deepened.probabilities.argmax(axis=1)
        == learned.index.labels[learned.split.validation]
    )
    np.testing.assert_array_equal(trained.is_correct_validation, right)


def test_all_layers_behind_conv1_moved_and_are_what_float16_holds(whole, weights):
    learned, _ = whole
    for name, value in learned.deepened.weights.items():
        np.testing.assert_array_equal(value, value.astype(np.float16).astype(np.float32))
        if name.startswith("features.0."):
            np.testing.assert_array_equal(value, weights[name])
        elif name.endswith("weight"):
            assert 0 < np.abs(value - weights[name]).max() < np.abs(weights[name]).max(), name


@pytest.mark.parametrize(("pixels", "difference"), [("as kept", 0.03), ("as in the file", 0.003)])
def test_the_file_agrees_with_the_network_that_was_trained(
    learn, weights, settings, monkeypatch, pixels, difference
):
    """Kept pixels are larger than the network's, and made smaller once more: on pure noise that can
    be seen.
    """
    if pixels == "as in the file":
        monkeypatch.setattr(deepening, "choose_pixel_side", lambda side, sizes: side)
    learned = prefer_layers(learn(epochs=1.0))
    assert learned.best
    index, positions = learned.index, learned.split.validation
    classifier = Classifier(learned.model, make_manifest(learned, settings))
    by_file = classifier.predict_probabilities(
        [index.source.read(index.names[at]) for at in positions]
    )
    assert (by_file.argmax(axis=1) == learned.deepened.probabilities.argmax(axis=1)).mean() >= 0.9
    assert np.abs(by_file - learned.deepened.probabilities).mean() < difference


def test_the_parameters_in_the_file_are_the_trained_ones(whole, weights, tmp_path):
    learned = prefer_layers(whole[0])
    (tmp_path / "network.safetensors").write_bytes(learned.network)
    with safe_open(tmp_path / "network.safetensors", "numpy") as file:
        about = json.loads(file.metadata()["squeezetune"])
    assert about == {
        "views": learned.chosen.views,
        "image_side": 64,
        "resize": "squash",
        "use_roots": False,
        "squeezenet": "1.1",
    }
    tensors = unpack_tensors(learned.network)
    for name, value in learned.deepened.weights.items():
        np.testing.assert_array_equal(tensors[name].astype(np.float32), value)
    np.testing.assert_array_equal(tensors["head.0.weight"], learned.deepened.layers[0][0])


@pytest.fixture
def old_file(tmp_path):
    """Write weights of SqueezeNet 1.0."""
    save_file(draw_weights("1.0"), tmp_path / "mine.safetensors")
    return tmp_path / "mine.safetensors"


def test_all_layers_of_squeezenet_1_0_are_trained(learn, old_weights, old_file, settings):
    learned = prefer_layers(learn(epochs=1.0, weights=str(old_file)))
    assert learned.network_name == "SqueezeNet 1.0, all layers trained"
    for name, value in learned.deepened.weights.items():
        assert value.shape == old_weights[name].shape
        assert np.array_equal(value, old_weights[name]) is name.startswith("features.0."), name
    pixels = np.random.default_rng(0).integers(0, 256, (6, 64, 64, 3), dtype=np.uint8)
    by_file = Classifier(learned.model, make_manifest(learned, settings)).run(list(pixels))
    np.testing.assert_allclose(by_file, run_stored(learned.network, pixels), atol=1e-4)


def run_stored(network, pixels):
    """Run `network.safetensors` in torch on images (n, side, side, 3): probabilities (n,
    classes).
    """
    about = json.loads(read_metadata(network)["squeezetune"])
    tensors = {
        name: torch.from_numpy(value).float() for name, value in unpack_tensors(network).items()
    }
    backbone = SqueezeNet(about["squeezenet"])
    backbone.features.load_state_dict(
        {name[9:]: value for name, value in tensors.items() if "features." in name}
    )
    tapped = TappedNetwork(backbone, len(tensors["head.0.bias"]))
    tapped.classifier.load_state_dict(
        {"weight": tensors["head.0.weight"].T, "bias": tensors["head.0.bias"]}
    )
    views = [pixels, pixels[:, :, ::-1].copy()][: about["views"]]
    with torch.inference_mode():
        logits = [tapped(normalise(torch.from_numpy(view))) for view in views]
    return torch.stack(logits).mean(0).softmax(1).numpy()


def read_metadata(payload):
    """Read the texts in the head of a safetensors file."""
    length = int.from_bytes(payload[:8], "little")
    return json.loads(payload[8 : 8 + length])["__metadata__"]


def test_a_run_goes_on_with_the_same_weights_only_wherever_they_are(learn, tmp_path):
    mine = tmp_path / "mine.safetensors"
    save_file(draw_weights("1.1"), mine)
    unfinished = CheckpointFolder(tmp_path / ".model.unfinished")
    learn(stop_at(1), unfinished, weights=str(mine))
    moved = mine.rename(tmp_path / "moved.safetensors")
    save_file(draw_weights("1.1", seed=1), mine)
    with pytest.raises(
        CheckpointError,
        match=r'settings\.weights is "[0-9a-f]{20,}\.\.\., the unfinished run had "',
    ):
        learn(ignore_event, unfinished, resume=True, weights=str(mine))
    resumed = learn(ignore_event, unfinished, resume=True, weights=str(moved))
    assert digest(resumed.deepened) == digest(learn(weights=str(moved)).deepened)


def test_the_report_has_the_stages_and_their_curves(shape_folder, settings, tmp_path):
    report = train(shape_folder, tmp_path / "model", replace(settings, epochs=1.0)).report
    assert [stage["name"] for stage in report["stages"]] == ["frozen layers", LAYERS]
    [chosen] = [stage for stage in report["stages"] if stage["chosen"]]
    assert chosen["test"]["accuracy"] == report["test"]["accuracy"]
    assert [epoch["stage"] for epoch in report["history"]][-1] == LAYERS
    assert report["model"]["agreement"]["top1"] >= 0.99
    assert report["model"]["agreement"]["mean_difference"] < 0.01
    assert LAYERS in [item["stage"] for item in report["timings"]]
    assert "--layers all" in report["command"]
    assert [path.name for path in tmp_path.iterdir()] == ["model"]  # no unfinished run is left


# ---- when it does not pay, or cannot be


def test_layers_that_are_no_better_are_not_taken(learn, monkeypatch):
    tune = finetune.tune

    def spoil(*arguments):
        tuned = tune(*arguments)
        return replace(tuned, logits=-tuned.logits)

    monkeypatch.setattr(finetune, "tune", spoil)
    learned = learn(epochs=1.0)
    assert not learned.best
    assert learned.stages[0].is_chosen
    assert "no better on the validation images" in learned.stages[1].note
    frozen = learn(layers="head", views="mirror")
    assert (learned.model, learned.network) == (frozen.model, frozen.network)


def test_a_diverged_network_can_be_judged(learn, monkeypatch):
    monkeypatch.setattr(
        "squeezetune.planning.stage_plans.choose_recipe",
        lambda *_: Recipe(rate=1e6, head_rate=1e6, batch=8),
    )
    said = []
    learned = learn(said.append, epochs=1.0)
    assert np.isfinite(learned.deepened.probabilities).all()
    assert math.isfinite(learned.deepened.candidate.validation_loss)
    assert any(
        "ends with what it had" in event.message for event in said if isinstance(event, Notice)
    )


def test_without_validation_images_no_layers_are_trained(learn, draw_shape, executor):
    images = [draw_shape(shape, 0) for shape in ("box", "disc")]
    index = index_images(images, ["box", "disc"], executor=executor)
    learned = learn(index=index, cut=lambda images: split_train_validation(images, 0.2, 0))
    assert len(learned.split.validation) == 0
    assert learned.deepened is None
    assert learned.stages == ()


@pytest.mark.parametrize(("views", "count"), [("plain", 1), ("mirror", 2), ("crops", 2)])
def test_training_sees_mirror_images_only_where_the_head_does(learn, monkeypatch, views, count):
    seen = []
    tune = finetune.tune

    def watch(network, task, *others):
        seen.append(task)
        return tune(network, task, *others)

    monkeypatch.setattr(finetune, "tune", watch)
    learned = learn(views=views, epochs=0.25)
    [task] = seen
    assert task.views == learned.deepened.candidate.views == count
    assert task.feed.augmentation.mirror is (count == 2)


def test_rare_classes_are_weighed(learn, draw_shape, executor, monkeypatch):
    tasks, tune = [], finetune.tune
    monkeypatch.setattr(
        finetune,
        "tune",
        lambda network, task, *others: tasks.append(task) or tune(network, task, *others),
    )
    shapes = ["box"] * 30 + ["disc"] * 10
    images = [draw_shape(shape, at) for at, shape in enumerate(shapes)]
    learn(index=index_images(images, shapes, executor=executor), epochs=0.25)
    weights = tasks[0].class_weights
    assert weights[1] / weights[0] == pytest.approx(3, rel=0.2)


# ---- the disk


def read_state(folder):
    return {
        path: (path.stat().st_mtime_ns, path.read_bytes())
        for path in folder.rglob("*")
        if path.is_file()
    }


def test_without_a_cache_pixels_are_in_a_folder_for_now(learn, shape_folder, tmp_path, monkeypatch):
    place = tmp_path / "temporary"
    place.mkdir()
    monkeypatch.setenv("TMPDIR", str(place))
    monkeypatch.setattr(tempfile, "tempdir", None)
    before, seen = read_state(shape_folder), []

    def look(event):
        if isinstance(event, EpochFinished) and event.stage == LAYERS:
            seen.append(sum(path.stat().st_size for path in place.rglob("*") if path.is_file()))

    learn(look, cache=None, epochs=1.0)
    assert seen[0] > 48 * 64 * 64 * 3
    assert list(place.iterdir()) == []
    assert read_state(shape_folder) == before


def test_pixels_are_decoded_once(learn, whole):
    said = []
    learn(said.append, epochs=0.25)
    assert [event.stage for event in said if isinstance(event, StageStarted)] == [
        "preparing",
        "head",
        LAYERS,
        "familiarity",
    ]


# ---- the same again, stopped and resumed


def test_the_same_run_gives_the_same_bytes_and_another_seed_others(learn, whole):
    assert digest(learn().deepened) == digest(whole[0].deepened)
    assert digest(learn(seed=1).deepened) != digest(whole[0].deepened)


def stop_at(epoch, stage=LAYERS):
    """Press Ctrl-C, as it were, when an epoch is over."""

    def listen(event):
        if isinstance(event, EpochFinished) and (event.stage, event.epoch) == (stage, epoch):
            signal.raise_signal(signal.SIGINT)

    return listen


def test_ctrl_c_ends_with_a_model_and_the_run_can_be_resumed(learn, whole, tmp_path):
    unfinished = CheckpointFolder(tmp_path / ".model.unfinished")
    stopped = learn(stop_at(2), unfinished)
    assert not stopped.deepened.is_finished
    assert len(stopped.deepened.candidate.history) == 2
    assert stopped.model
    resumed = learn(ignore_event, unfinished, resume=True)
    assert resumed.deepened.is_finished
    assert digest(resumed.deepened) == digest(whole[0].deepened) != digest(stopped.deepened)


def test_resuming_what_was_never_begun_begins(learn, whole, tmp_path):
    resumed = learn(ignore_event, CheckpointFolder(tmp_path / ".model.unfinished"), resume=True)
    assert digest(resumed.deepened) == digest(whole[0].deepened)


def test_train_keeps_the_unfinished_run_beside_the_model(shape_folder, settings, tmp_path):
    """Stop a run; refuse to go on from it with other settings; drop it; and go on from it to the
    end.
    """
    hidden, said = tmp_path / ".model.unfinished", []

    def listen(event):
        said.append(event)
        stop_at(1)(event)

    stopped = train(shape_folder, tmp_path / "model", settings, listen=listen)
    assert Notice(STOPPING) in said
    assert stopped.report["test"]["count"] == 12
    assert count_checkpoints(CheckpointFolder(hidden))
    with pytest.raises(
        CheckpointError, match=r"settings\.seed is 3, the unfinished run had 0"
    ) as caught:
        train(shape_folder, tmp_path / "model", settings, seed=3, resume=True)
    assert "without --resume" in caught.value.hint
    assert count_checkpoints(CheckpointFolder(hidden))
    train(shape_folder, tmp_path / "model", settings, resume=True)
    assert not hidden.exists()
    assert load(tmp_path / "model").report["history"][-1]["epoch"] == 3


def test_a_run_with_a_budget_goes_on_with_the_plan_that_it_had(learn, monkeypatch, tmp_path):
    unfinished, plans = CheckpointFolder(tmp_path / ".model.unfinished"), []
    tune = finetune.tune

    def watch(network, task, plan, *others):
        plans.append(plan)
        return tune(network, task, plan, *others)

    monkeypatch.setattr(finetune, "tune", watch)
    assert not learn(stop_at(1), unfinished, budget="20m", epochs=4.0).deepened.is_finished
    plan = replace(plans[0], epochs=plans[0].epochs / 2)  # what a busier machine would plan now
    monkeypatch.setattr("squeezetune.planning.stage_plans.plan_stage", lambda *_: plan)
    assert learn(
        ignore_event, unfinished, resume=True, budget="20m", epochs=4.0
    ).deepened.is_finished
    assert plans[0] == plans[1] != plan


def test_settings_that_train_no_layers_leave_an_unfinished_run_alone(
    shape_folder, settings, tmp_path
):
    hidden, said = CheckpointFolder(tmp_path / ".model.unfinished"), []
    hidden.save({"kernel": np.zeros(3, np.float32)}, {"identity": {}})
    train(
        shape_folder, tmp_path / "model", settings, layers="head", resume=True, listen=said.append
    )
    assert [
        True
        for event in said
        if isinstance(event, Notice) and "nothing was resumed" in event.message
    ]
    assert count_checkpoints(hidden) == 1


def test_the_command_line_refuses_to_go_on_with_another_run(shape_folder, tmp_path):
    unfinished = CheckpointFolder(tmp_path / ".model.unfinished")
    unfinished.save({"kernel": np.zeros(3, np.float32)}, {"identity": {"photos": "others"}})
    words = [
        "train",
        str(shape_folder),
        "--output",
        str(tmp_path / "model"),
        *FAST,
        "--layers",
        "all",
        "--resume",
    ]
    result = CliRunner().invoke(main, words)
    assert result.exit_code == CheckpointError.exit_status
    told = " ".join(result.stderr.split())
    assert "is another one" in told
    assert "train anew without --resume" in told
    assert [path.name for path in tmp_path.iterdir()] == [".model.unfinished"]
    assert count_checkpoints(unfinished) == 1


def test_train_drops_an_unfinished_run_with_a_word(shape_folder, settings, tmp_path):
    hidden, said = tmp_path / ".model.unfinished", []
    CheckpointFolder(hidden).save({"kernel": np.zeros(3, np.float32)}, {"identity": {}})
    train(shape_folder, tmp_path / "model", settings, layers="head", listen=said.append)
    [notice] = [event.message for event in said if isinstance(event, Notice)]
    assert f"an unfinished run in {hidden} is dropped" in notice
    assert "--resume" in notice
    assert not hidden.exists()


# ---- the last blocks alone, from kept activations


LAST = {"layers": "last", "last_blocks": 2}


@pytest.fixture(scope="module")
def last_blocks(learn):
    """Train the last two blocks without a stop: what came out, and what was said."""
    said = []
    return learn(said.append, **LAST), said


def test_the_last_blocks_move_and_the_others_stay(last_blocks, weights):
    learned, said = last_blocks
    assert [event.stage for event in said if isinstance(event, StageStarted)][-2:] == [
        "activations",
        "last 2 blocks",
    ]
    assert learned.deepened.plan.extra_views == 4
    for name, value in learned.deepened.weights.items():
        is_last = name.startswith(("features.11.", "features.12."))  # fire8 and fire9
        assert np.array_equal(value, weights[name]) is not is_last, name


def test_the_last_blocks_give_the_same_bytes_again(learn, last_blocks):
    assert digest(learn(**LAST).deepened) == digest(last_blocks[0].deepened)
    assert digest(learn(**{**LAST, "last_blocks": 1}, epochs=1.0).deepened) != digest(
        last_blocks[0].deepened
    )


def test_more_blocks_than_there_are_are_refused(learn):
    with pytest.raises(SettingsError, match=r"last_blocks is 9; SqueezeNet 1\.1 has 9 blocks"):
        learn(layers="last", last_blocks=9)


def test_the_training_of_the_last_blocks_can_be_resumed(learn, last_blocks, tmp_path, monkeypatch):
    """Also where the disk has room for fewer views by now: the unfinished run has its plan."""
    unfinished = CheckpointFolder(tmp_path / ".model.unfinished")
    stopped = learn(stop_at(2, "last 2 blocks"), unfinished, **LAST)
    assert not stopped.deepened.is_finished
    monkeypatch.setattr("squeezetune.planning.stage_plans.EXTRA_VIEWS", 1)
    resumed = learn(ignore_event, unfinished, resume=True, **LAST)
    assert digest(resumed.deepened) == digest(last_blocks[0].deepened) != digest(stopped.deepened)


def test_the_file_agrees_with_the_last_blocks_as_they_were_trained(last_blocks, weights, settings):
    learned = prefer_layers(last_blocks[0])
    index, positions = learned.index, learned.split.validation
    classifier = Classifier(learned.model, make_manifest(learned, settings))
    by_file = classifier.predict_probabilities(
        [index.source.read(index.names[at]) for at in positions]
    )
    assert (by_file.argmax(axis=1) == learned.deepened.probabilities.argmax(axis=1)).all()
    assert (
        np.abs(by_file - learned.deepened.probabilities).mean() < 0.01
    )  # activations are kept as uint8


def test_photos_that_must_not_be_mirrored_have_no_mirrored_views(learn, monkeypatch):
    drawn, compute = [], activations.compute_activations

    def watch(index, frozen, *others):
        drawn.append((frozen.options.draw, frozen.options.views))
        return compute(index, frozen, *others)

    monkeypatch.setattr(activations, "compute_activations", watch)
    for views in ("plain", "mirror"):
        learn(views=views, epochs=0.25, **LAST)
    assert drawn == [(activations.draw_unmirrored_view, 1), (activations.draw_view, 2)]


@pytest.mark.parametrize("more", [{}, {"budget": "20m"}])
def test_a_run_that_trains_the_last_blocks_is_reported(shape_folder, settings, tmp_path, more):
    report = train(
        shape_folder, tmp_path / "model", replace(settings, epochs=1.0, **LAST, **more)
    ).report
    assert [stage["name"] for stage in report["stages"]] == ["frozen layers", "last 2 blocks"]
    assert report["history"][-1]["stage"] == "last 2 blocks"
    assert report["model"]["agreement"]["top1"] >= 0.99
    assert "--layers last" in report["command"]
    assert "--last-blocks 2" in report["command"]
    assert [path.name for path in tmp_path.iterdir()] == ["model"]


# ---- killed

RUNS = """
import os, signal, sys, time
from dataclasses import replace
from pathlib import Path

from squeezetune.system.checkpoint import CheckpointFolder, UnfinishedRun
from squeezetune.data.index import index_photos
from squeezetune.data.split import split_index
from squeezetune.system.executor import ThreadExecutor
from squeezetune.events import ignore_event
from squeezetune.network import activations
from squeezetune.finetune import workers as crew
from squeezetune.finetune import loop as finetune
from squeezetune.finetune import state as keeping
from squeezetune.pipeline.fitting import fit_classifier
from squeezetune.settings import Settings
from squeezetune.pipeline.context import open_context

import torch

photos, place, moments = sys.argv[1], Path(sys.argv[2]), [float(word) for word in sys.argv[4:]]
crew.choose_precision = lambda: torch.float32
finetune.KEPT_EVERY_S = 0.05
settings = Settings(backbone="squeezenet1_1", image_side=64, validation=0.2, test=0.2, engine="onnxruntime",
                    precision="float32", threads=2,
                    layers="all", epochs=float(sys.argv[3]))
cut = lambda index: split_index(index, validation=0.2, test=0.2, seed=0)
load_kept = keeping.load_kept


def tell(folder, identity):
    found = load_kept(folder, identity)
    with (place / "steps").open("a") as file:
        print(found[0].state.step if found else 0, file=file)
    return found


keeping.load_kept = tell


def run(name):
    '''Train, or go on, and leave a digest.'''
    executor, unfinished = ThreadExecutor(2), CheckpointFolder(place / f".{name}.unfinished")
    index = index_photos(photos, executor=executor)
    context = open_context(settings, place / "cache", ignore_event, executor)
    learned = fit_classifier(index, cut, context, unfinished=UnfinishedRun(unfinished, True))
    arrays = [*learned.deepened.weights.values(), *learned.deepened.layers[0], learned.deepened.probabilities]
    (place / name).write_bytes(b"".join(array.tobytes() for array in arrays))


def start(name):
    '''Run in a process of its own, which has loaded its libraries already.'''
    child = os.fork()
    if not child:
        run(name)
        os._exit(0)
    return child


def find_newest(name):
    return max((int(path.stem[-6:]) for path in place.glob(f".{name}.unfinished/checkpoint-*.json")), default=0)


def wait_for_checkpoint(name, child):
    '''Wait until the run has kept something new; say when, and whether it is still there.'''
    before, ended = find_newest(name), 0
    while find_newest(name) == before and not ended:
        time.sleep(0.002)
        ended, _ = os.waitpid(child, os.WNOHANG)
    return time.perf_counter(), not ended


child = start("clean")
began, _ = wait_for_checkpoint("clean", child)
assert os.waitpid(child, 0)[1] == 0
length, kills = time.perf_counter() - began, 0
for moment in moments:
    child = start("killed")
    _, is_alive = wait_for_checkpoint("killed", child)
    if not is_alive:
        break
    time.sleep(moment * length)
    os.kill(child, signal.SIGKILL)
    kills += os.WIFSIGNALED(os.waitpid(child, 0)[1])
assert os.waitpid(start("killed"), 0)[1] == 0
print(kills)
"""  # noqa: E501  # noqa: E501


def kill_and_compare(photos, place, epochs, moments):
    """Kill a training again and again, such shares of its length after it has kept something new.

    What is left alone then must end as if nothing had been.
    """
    words = [sys.executable, "-c", RUNS, str(photos), str(place), str(epochs), *map(str, moments)]
    done = subprocess.run(words, capture_output=True, text=True, timeout=600, check=False)
    assert done.returncode == 0, done.stderr
    assert (place / "killed").read_bytes() == (place / "clean").read_bytes()
    clean, *steps = [int(line) for line in (place / "steps").read_text().split()]
    assert (clean, steps[0]) == (0, 0)
    assert steps == sorted(set(steps))  # each goes on from where another was killed
    assert int(done.stdout) >= len(moments) / 2, "the runs were over too soon to be killed"


FORKS = pytest.mark.skipif(not hasattr(os, "fork"), reason="needs a system that can fork")


@FORKS
@pytest.mark.slow
def test_twenty_killed_trainings_end_as_if_nothing_had_been(shape_folder, tmp_path):
    kill_and_compare(
        shape_folder, tmp_path, 24, np.random.default_rng(0).uniform(0, 0.05, 20).tolist()
    )


@pytest.mark.skipif(sys.platform == "win32", reason="Windows sends signals to whole consoles only")
def test_a_real_ctrl_c_leaves_a_model(shape_folder, tmp_path):
    command = [
        sys.executable,
        "-m",
        "squeezetune",
        "train",
        str(shape_folder),
        "--output",
        str(tmp_path / "model"),
        "--backbone",
        "squeezenet1_1",
        "--image-side",
        "64",
        "--validation",
        "0.2",
        "--test",
        "0.2",
        "--engine",
        "onnxruntime",
        "--precision",
        "float32",
        "--threads",
        "2",
        "--layers",
        "all",
        "--epochs",
        "2000",
    ]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        try:
            end = time.monotonic() + 60
            while not list(
                tmp_path.glob(".model.unfinished/checkpoint-*.json")
            ):  # the first epoch is over
                assert process.poll() is None, process.stderr.read()
                assert time.monotonic() < end
                time.sleep(0.02)
            process.send_signal(signal.SIGINT)
            said, told = process.communicate(timeout=60)
        finally:
            process.kill()
    assert process.returncode == 0, told
    assert "of 12 test photos are recognised" in said
    assert "Stopping after this step" in " ".join(told.split())
    assert load(tmp_path / "model").report["test"]["count"] == 12
    assert list(tmp_path.glob(".model.unfinished/checkpoint-*.json"))
