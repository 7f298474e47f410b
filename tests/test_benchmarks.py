"""The benchmarks: they start, they read the photos' layouts rightly, and the recipe's network is
ours.
"""

import argparse
import importlib
import importlib.util
import os
import re
import sys
import time
import zipfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from squeezetune.network.graph import build_backbone
from squeezetune.network.inference import Runtime, open_graph
from squeezetune.network.weights import load_weights
from squeezetune.settings import Settings

FOLDER = Path(__file__).parents[1] / "benchmarks"
PROGRAMS = (
    "photos",
    "accuracy",
    "memory",
    "memory_ceiling",
    "head_time",
    "forecasts",
    "fine_tuning",
    "generations",
    "kills",
    "million",
    "rereading",
    "serving",
    "budgets",
    "check",
    "wrong_labels",
    "poor_photos",
    "prediction",
    "cold_start",
    "unknown",
    "explanations",
    "exports",
    "backbones",
)
NEED_NO_DATA = ("million", "serving", "cold_start", "named_networks")
TORCH_PROGRAMS = (
    "seed_recipe",
    "first_light",
    "trunk_speed",
    "backbone_speed",
    "activations",
    "curve",
    "depth_speed",
    "named_networks",
)

needs_torch = pytest.mark.skipif(
    not importlib.util.find_spec("torch"), reason="torch is not installed; this compares with it"
)
needs_wait4 = pytest.mark.skipif(sys.platform == "win32", reason="Windows cannot wait4")

pytestmark = pytest.mark.skipif(
    not FOLDER.is_dir(), reason="the benchmarks are not part of this installation"
)


@pytest.fixture
def load_program(monkeypatch):
    monkeypatch.syspath_prepend(str(FOLDER))
    return importlib.import_module


@pytest.fixture
def eth80_zip(tmp_path, make_photo):
    """Two classes of ten objects with two views each, in the original archive's layout."""
    data = tmp_path / "data"
    data.mkdir()
    with zipfile.ZipFile(data / "eth80.zip", "w") as archive:
        for seed in range(40):
            thing = f"{('apple', 'car')[seed % 2]}{seed // 4 + 1}"
            archive.writestr(
                f"eth80-cropped256/{thing}/{thing}-0{seed % 4 // 2}5-000.jpg", make_photo(seed)
            )
    return data


def open_eth80(load_program, data, work, *more):
    photos = load_program("photos")
    parser = argparse.ArgumentParser()
    photos.add_photo_options(parser)
    root = photos.prepare_photos(
        "eth80", parser.parse_args(["--data", str(data), "--work", str(work), *more])
    )
    return root, photos.scan_photos("eth80", root)


@pytest.mark.parametrize(
    "name", [*PROGRAMS, *(pytest.param(name, marks=needs_torch) for name in TORCH_PROGRAMS)]
)
def test_every_program_explains_itself(name, load_program, capsys):
    with pytest.raises(SystemExit) as stop:
        load_program(name).main(["--help"])
    assert stop.value.code == 0
    said = capsys.readouterr().out
    assert f"python benchmarks/{name}.py" in said
    assert "--data" in said or name in NEED_NO_DATA


def test_the_readme_names_every_program():
    text = (FOLDER / "README.md").read_text()
    assert {path.name for path in FOLDER.glob("*.py")} == set(re.findall(r"`(\w+\.py)`", text))


def test_eth80_is_read_by_class_and_by_object(load_program, eth80_zip, tmp_path):
    root, index = open_eth80(load_program, eth80_zip, tmp_path / "work")
    assert index.class_names == ("apple", "car")
    assert index.class_counts.tolist() == [20, 20]
    assert all(
        name.startswith(index.class_names[label])
        for name, label in zip(index.names, index.labels, strict=True)
    )
    pattern = load_program("photos").PHOTO_SETS["eth80"].group_pattern
    groups = {re.search(pattern, name)[1] for name in index.names}
    assert groups == {f"{thing}{number}" for thing in ("apple", "car") for number in range(1, 11)}
    assert root == tmp_path / "work" / "eth80-cropped256"


def test_photos_are_unpacked_once_and_thinned_evenly(load_program, eth80_zip, tmp_path):
    _, index = open_eth80(load_program, eth80_zip, tmp_path / "work", "--images", "20")
    assert index.class_counts.tolist() == [10, 10]
    (eth80_zip / "eth80.zip").unlink()
    _, again = open_eth80(load_program, eth80_zip, tmp_path / "work", "--images", "20")
    assert again.fingerprint == index.fingerprint


def test_a_sample_of_more_photos_than_there_are_is_all_of_them(load_program, eth80_zip, tmp_path):
    _, index = open_eth80(load_program, eth80_zip, tmp_path / "work", "--images", "100")
    assert index.class_counts.tolist() == [20, 20]


def test_a_fold_holds_whole_objects_out(load_program, eth80_zip, tmp_path):
    _, index = open_eth80(load_program, eth80_zip, tmp_path / "work")
    accuracy = load_program("accuracy")
    objects = accuracy.read_objects(index)
    for test in (1, 10):
        split = accuracy.cut_objects(index, test)
        assert set(objects[split.test]) == {test}
        assert set(objects[split.validation]) == {test % 10 + 1}
        assert set(objects[split.train]) == set(range(1, 11)) - {test, test % 10 + 1}
        assert len(split.train) + len(split.validation) + len(split.test) == len(index)


def test_spread_is_median_ends_and_number(load_program):
    figures = load_program("figures")
    assert figures.format_spread([4.0, 1.0, 2.0]) == "2.0 (1.0–4.0, n=3)"
    assert figures.format_mean([0.5, 0.7]) == "60.00% ± 14.14% (n=2)"
    assert figures.format_accuracy(97, 100) == "97.00% [91.55%, 98.97%] of 100"


@needs_wait4
def test_a_process_is_weighed_without_its_parent(load_program, tmp_path):
    ballast = np.ones(
        200 << 20, np.uint8
    )  # would count as the child's memory if it were forked from here
    processes = load_program("processes")
    run = processes.run_process(["-c", "pass"], tmp_path)
    assert ballast.nbytes / 2**20 > 3 * run.peak_mb
    with pytest.raises(SystemExit, match="exit status 3"):
        processes.run_process(["-c", "raise SystemExit(3)"], tmp_path)


@needs_torch
def test_the_torch_network_equals_our_graph(load_program):
    recipe = load_program("seed_recipe")
    pixels = np.random.default_rng(0).integers(0, 256, (2, 96, 96, 3), dtype=np.uint8)
    ours = open_graph(build_backbone(load_weights()), Runtime("onnxruntime", "float32"), 1)(pixels)[
        :, 0
    ]
    theirs = recipe.pool_taps(recipe.build_backbone(), recipe.normalise_pixels(pixels)).numpy()
    assert np.abs(theirs - ours).max() <= 1e-3


@needs_torch
def test_the_recipe_learns_its_classifier_alone(load_program):
    recipe = load_program("seed_recipe")
    torch = load_program("torch")
    backbone, classifier = recipe.build_backbone(), recipe.build_classifier(2, 0)
    before = torch.nn.utils.parameters_to_vector(backbone.parameters())
    images, labels = torch.randn(4, 3, 64, 64), torch.tensor([0, 1, 0, 1])
    model, first = torch.nn.Sequential(backbone, classifier), classifier[1].weight.clone()
    recipe.train_model(
        model, torch.optim.Adam(classifier.parameters(), 1e-3), iter([(images, labels)])
    )
    assert torch.equal(before, torch.nn.utils.parameters_to_vector(backbone.parameters()))
    assert not torch.equal(first, classifier[1].weight)


# ---- what is kept of finished runs


def test_a_finished_run_is_not_made_again(load_program, tmp_path):
    ledger = load_program("ledger").Ledger(tmp_path / "work" / "runs.jsonl")
    assert ledger.find({"seed": 0}) is None
    assert ledger.recall({"seed": 0, "sides": (64, 96)}, lambda: {"right": 3}) == {"right": 3}
    assert ledger.recall({"seed": 1, "sides": (64, 96)}, lambda: {"right": 4}) == {"right": 4}
    assert ledger.recall({"seed": 0, "sides": (64, 96)}, lambda: pytest.fail("made again")) == {
        "right": 3
    }
    assert ledger.find({"seed": 1, "sides": [64, 96]}) == {"right": 4}


def test_a_line_that_a_kill_has_torn_costs_its_run_alone(load_program, tmp_path):
    ledger = load_program("ledger").Ledger(tmp_path / "runs.jsonl")
    for seed in range(2):
        ledger.recall({"seed": seed}, lambda: {"right": 3})
    ledger.path.write_text(ledger.path.read_text()[:-9])
    assert ledger.find({"seed": 0}) == {"right": 3}
    assert ledger.find({"seed": 1}) is None
    assert ledger.recall({"seed": 1}, lambda: {"right": 5}) == {"right": 5}
    assert [line["key"]["seed"] for line in ledger.read()] == [0, 1]


def test_fresh_measures_again_and_throws_nothing_away(load_program, tmp_path):
    module = load_program("ledger")
    first = module.open_ledger("runs", argparse.Namespace(work=tmp_path, ledger=None, fresh=False))
    first.recall({"seed": 0}, lambda: {"right": 3})
    second = module.open_ledger("runs", argparse.Namespace(work=tmp_path, ledger=None, fresh=True))
    assert second.recall({"seed": 0}, lambda: {"right": 4}) == {"right": 4}
    assert (tmp_path / "runs.old.jsonl").is_file()


def test_runs_of_another_state_of_the_program_are_told_apart(
    load_program, tmp_path, monkeypatch, capsys
):
    module = load_program("ledger")
    ledger = module.Ledger(tmp_path / "runs.jsonl")
    ledger.recall({"seed": 0}, lambda: {"right": 3})
    monkeypatch.setattr(module, "hash_program", lambda: "another")
    ledger.recall({"seed": 0}, lambda: pytest.fail("made again"))
    assert "by another state of the program" in capsys.readouterr().out


# ---- what explanations and refusals are measured by


def test_the_hottest_pixels_and_random_squares_are_as_many(load_program):
    explanations, rng = load_program("explanations"), np.random.default_rng(0)
    heat = rng.random((40, 80)).astype(np.float32)
    mask = explanations.choose_hottest(heat, 0.25)
    assert mask.sum() == 800
    assert heat[mask].min() >= heat[~mask].max()
    squares = explanations.choose_squares(heat.shape, 0.25, rng)
    assert (squares.shape, squares.sum()) == (heat.shape, 800)
    covered = explanations.cover(Image.new("RGB", (80, 40), (10, 20, 30)), mask)
    np.testing.assert_array_equal(covered[mask], np.tile([10, 20, 30], (800, 1)))


def test_classes_are_left_out(load_program, eth80_zip, tmp_path):
    _, index = open_eth80(load_program, eth80_zip, tmp_path / "work")
    kept = load_program("unknown").leave_out(index, [0])
    assert (kept.class_names, kept.class_counts.tolist()) == (("car",), [20])
    assert all(name.startswith("car") for name in kept.names)


# ---- forecasts


def make_outcome(load_program, seconds=55.0, correct=90, **changes):
    parts = [
        {"part": "preparing", "forecast_s": 2.0, "seconds": None},
        {"part": "all layers at 96, 128 px", "forecast_s": 48.0, "seconds": 40.0},
    ]
    known = {
        "seconds": seconds,
        "peak_mb": 500.0,
        "correct": correct,
        "count": 100,
        "network": "SqueezeNet 1.1, frozen",
        "plan": {"budget_s": 60.0, "forecast_s": 58.0, "parts": parts},
        "epochs": [],
        "timings": [],
        "stages": [],
    }
    return load_program("trials").Outcome(**{**known, **changes})


def test_a_forecast_is_held_against_the_whole_process(load_program):
    forecasts = load_program("forecasts")
    name = ("400", "1m", "usual")
    good, late, poor = (
        forecasts.Comparison(name, make_outcome(load_program, s)) for s in (55.0, 60.5, 45.0)
    )
    assert (good.is_in_budget, good.is_near) == (True, True)
    assert (late.is_in_budget, late.is_near) == (False, True)
    assert (poor.is_in_budget, poor.is_near) == (True, False)
    assert poor.deviation == pytest.approx(58 / 45 - 1)
    assert good.list_parts() == [("all layers", 48.0, 40.0)]


def test_a_budget_is_held_against_a_run_without_one(load_program, capsys):
    budgets = load_program("budgets")

    def run(budget, seconds, accuracy, said=""):
        return budgets.BudgetRun(budget, seconds, accuracy, 400, (300, 40), said)

    free = run("none", 20.0, 0.90)
    ruined, plain, late = (
        run("10s", 18.0, 0.61),
        run("10s", 18.0, 0.89, "10s is too short here"),
        run("10s", 18.0, 0.9),
    )
    refused, shorter = run("1s", 5.0, None, "1s is too short here"), run("8s", 7.5, 0.7)
    assert [found.is_worse(free) for found in (ruined, plain, refused, shorter)] == [
        True,
        False,
        False,
        False,
    ]
    assert [found.keeps_word for found in (plain, late, refused, shorter)] == [
        True,
        False,
        True,
        True,
    ]
    budgets.print_runs("318", [free, ruined, refused])
    budgets.print_summary({"318": [free, ruined, plain, late, refused, shorter]})
    said = capsys.readouterr().out
    assert "| 1s | 5.0 | 500% | refused | 300 / 40 | 1s is too short here |" in said
    assert "| ended in time, or said that it could not | 5 | 3 |" in said
    assert "| worse than without a budget, in about that time | 0 | 1 |" in said


def test_a_refused_budget_is_an_answer(load_program):
    read = load_program("budgets").read_answer
    assert read({"error": {"message": "1s is too short here"}})["said"] == "1s is too short here"
    report = {
        "data": {"parts": {"train": 8, "validation": 1}}, "test": {"accuracy": 0.5, "count": 2},
        "plan": {"shortage": {"words": "2s is too short here"}},
    }  # fmt: skip
    assert read(report) == {
        "accuracy": 0.5,
        "tested": 2,
        "used": (8, 1),
        "said": "2s is too short here",
    }
    assert read(report | {"plan": None})["said"] == ""


def test_the_summary_of_forecasts_says_what_is_broken(load_program, capsys):
    forecasts = load_program("forecasts")
    runs = [
        forecasts.Comparison(("400", "1m", "usual"), make_outcome(load_program, s))
        for s in [55.0] * 17 + [61.0]
    ]
    forecasts.print_runs(runs)
    forecasts.print_parts(runs)
    forecasts.print_summary(runs)
    said = capsys.readouterr().out
    assert "| ended within the budget | all | 17 of 18 | BROKEN |" in said
    assert "| forecast within 20% | 90% | 18 of 18 (100%) | kept |" in said
    assert "| all layers | 1.20 (1.20–1.20, n=18) |" in said


def test_every_task_is_tried_with_every_budget_and_both_settings(load_program):
    forecasts = load_program("forecasts")
    trials = [
        forecasts.make_trial(task, budget, group, 0)
        for task in forecasts.TASKS
        for budget in forecasts.BUDGETS
        for group in forecasts.SETTINGS
    ]
    assert len({str(trial.key) for trial in trials}) == forecasts.FEWEST_RUNS == 18
    assert {(trial.photos, trial.images) for trial in trials} == {
        ("eth80", 400),
        ("eth80", 0),
        ("cifar10", 0),
    }
    assert {trial.settings.budget for trial in trials} == {"1m", "3m", "8m"}
    assert forecasts.make_trial("400", "1m", "usual", 100).images == 100


# ---- fine-tuning


def make_pairs(load_program, frozen, tuned):
    result, pair = load_program("accuracy").Result, load_program("fine_tuning").Pair
    return [pair(at, *(result(right, 100, 1.0, "", "", 0.5, 0.5) for right in both))
            for at, both in enumerate(zip(frozen, tuned, strict=True))]  # fmt: skip


def test_the_ratio_of_errors_has_an_interval_over_folds(load_program):
    bootstrap = load_program("fine_tuning").bootstrap_ratio
    halved = make_pairs(load_program, [96, 98, 90, 94], [98, 99, 95, 97])
    assert bootstrap(halved) == pytest.approx((0.5, 0.5, 0.5))
    ratio, low, high = bootstrap(make_pairs(load_program, [96, 98, 90, 94], [99, 97, 95, 97]))
    assert ratio == pytest.approx(12 / 22)
    assert low < ratio < high
    assert np.isnan(bootstrap(make_pairs(load_program, [100, 100], [99, 100]))).all()


def test_the_frozen_head_has_the_settings_of_the_trained_layers(load_program, tmp_path):
    choices = {"layers": "last", "last_blocks": 2, "effort": "thorough", "precision": "float32"}
    field = load_program("accuracy").Field("eth80", None, tmp_path, choices)
    frozen = load_program("fine_tuning").freeze(field)
    assert frozen.choices == {"layers": "head", "effort": "thorough", "precision": "float32"}
    assert (frozen.make_settings(3).layers, field.make_settings(3).last_blocks) == ("head", 2)


# ---- kills


def test_moments_of_kills_are_spread_over_the_whole_run(load_program):
    kills = load_program("kills")
    moments = kills.draw_moments(20, 2, 40.0, seed=0)
    assert [int(first // 2) for first, _ in moments] == list(range(20))
    assert all(0 <= second <= 40 for _, second in moments)
    assert (
        moments
        == kills.draw_moments(20, 2, 40.0, seed=0)
        != kills.draw_moments(20, 2, 40.0, seed=1)
    )
    assert kills.name_stage(3.0, [("features", 2.0), ("head", 4.0)]) == "head"
    assert kills.name_stage(5.0, [("features", 2.0), ("head", 4.0)]) == "report"


@needs_wait4
def test_a_process_is_killed_with_its_children(load_program, tmp_path):
    processes = load_program("processes")
    code = (
        "import subprocess, sys, time; from pathlib import Path; path = Path(sys.argv[1])\n"
        "child = subprocess.Popen(['sleep', '60']); path.write_text(str(child.pid)); time.sleep(60)"
    )
    told = tmp_path / "child"
    for seconds in (0.5, 2, 8, 30):  # a busy machine may take long to start it
        assert processes.run_and_kill(["-c", code, str(told)], tmp_path, seconds)
        if told.exists() and told.read_text():
            break
    child = int(told.read_text())
    end = time.monotonic() + 10
    while is_alive(child) and time.monotonic() < end:
        time.sleep(0.01)
    assert not is_alive(child)
    assert not processes.run_and_kill(["-c", "pass"], tmp_path, 60)
    with pytest.raises(SystemExit, match="exit status 3"):
        processes.run_and_kill(["-c", "raise SystemExit(3)"], tmp_path, 60)


def is_alive(process):
    """Say whether a process still runs; one that is dead and not yet collected does not."""
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


@needs_torch
@needs_wait4
@pytest.mark.slow
def test_killed_processes_leave_the_bytes_of_one_left_alone(load_program, shape_folder, tmp_path):
    kills = load_program("kills")
    settings = Settings(image_side=64, validation=0.2, test=0.2, layers="all", epochs=12.0)
    target = kills.Target("cifar10", shape_folder, settings, tmp_path / "choices", tmp_path)
    whole = target.run_whole()
    rounds = [
        target.run_killed(moments) for moments in kills.draw_moments(4, 1, whole["seconds"], seed=0)
    ]
    assert [found["digests"] for found in rounds] == [whole["digests"]] * len(rounds)
    assert [found["leftovers"] for found in rounds] == [[]] * len(rounds)
    assert rounds[0]["checkpoints"] == [0]  # killed before anything was learnt


# ---- the curve


@needs_torch
def test_a_runs_points_begin_with_its_frozen_head(load_program):
    curve = load_program("curve")
    epochs = [
        {"ended_s": at, "validation_accuracy": share}
        for at, share in ((None, 0.1), (30.0, 0.7), (60.0, 0.8))
    ]
    timings = [{"stage": "head", "seconds": 2.0, "ended_s": 12.0}]
    stages = [{"validation": {"accuracy": 0.6}}]
    outcome = make_outcome(load_program, epochs=epochs, timings=timings, stages=stages)
    assert curve.list_points(outcome) == [(12.0, 0.6), (30.0, 0.7), (60.0, 0.8)]
    assert curve.list_points(make_outcome(load_program, timings=timings)) == []


@needs_torch
def test_the_curve_is_drawn_and_judged_from_what_is_kept(load_program, tmp_path, capsys):
    curve, ledger = load_program("curve"), load_program("ledger").Ledger(tmp_path / "curve.jsonl")
    original = {"slices_s": [240.0, 250.0, 260.0], "tests": [60, 70], "count": 100}
    ledger.recall({"run": "original recipe", "images": 0}, lambda: original)
    for seed, way in ((0, {"effort": "quick"}), (0, {"budget": "10.0s"}), (1, {"budget": "10.0s"})):
        trial = load_program("trials").Trial("cifar10", 0, seed, way)
        outcome = make_outcome(
            load_program, 9.0, 86 + seed, epochs=[{"ended_s": 5.0, "validation_accuracy": 0.8}]
        )
        ledger.recall(trial.key, lambda outcome=outcome: vars(outcome))
        ledger.recall(curve.name_slice(trial), lambda: {"seconds": 255.0})
    curve.main(
        [
            "--data",
            str(tmp_path),
            "--work",
            str(tmp_path),
            "--plot",
            str(tmp_path / "plot.png"),
            "--plot-only",
        ]
    )
    said = capsys.readouterr().out
    assert "| T/25 | 9.0 (9.0–9.0, n=2) | 27.8 | 86.50% ± 0.71% (n=2) | 89.5%: MISSED |" in said
    assert "| original recipe, epoch 1 | 125 | 2.0 | 60.00% |" in said
    with Image.open(tmp_path / "plot.png") as plot:
        assert plot.size == (1600, 900)


@needs_torch
def test_without_results_the_curve_says_what_to_do(load_program, tmp_path):
    with pytest.raises(SystemExit, match="run without --plot-only first"):
        load_program("curve").main(
            ["--data", str(tmp_path), "--work", str(tmp_path), "--plot-only"]
        )


# ---- whole programs on a few photos


QUICK = {
    "backbone": "squeezenet1_1",
    "effort": "quick",
    "image_side": 64,
    "engine": "onnxruntime",
    "precision": "float32",
}


@pytest.mark.slow
@needs_wait4
def test_trials_are_made_once_and_told(load_program, eth80_zip, tmp_path, capsys):
    generations = load_program("generations")
    work = tmp_path / "work"
    options = argparse.Namespace(
        data=eth80_zip, work=work, images=0, seeds=1, budgets=[], ledger=None, fresh=False
    )
    bench = load_program("trials").TrialBench(
        load_program("ledger").open_ledger("generations", options), options
    )
    trial = load_program("trials").Trial("eth80", 0, 0, QUICK)
    outcome = bench.recall(trial)
    assert outcome == bench.recall(trial)
    assert 0 <= outcome.correct <= outcome.count == 4
    assert [timing["stage"] for timing in outcome.timings[-2:]] == ["measuring", "report"]
    generations.print_set("eth80", {generations.ORIGINAL: [outcome], "--effort quick": [outcome]})
    assert "| 1.0 (1.0–1.0, n=1) |" in capsys.readouterr().out
    assert {path.name for path in work.iterdir()} == {"eth80-cropped256", "generations.jsonl"}


@needs_torch
@pytest.mark.parametrize(("backbone", "last"), [("squeezenet1_1", 4), ("efficientnet_lite0", 6)])
def test_every_depth_is_timed_beside_the_plain_loop(
    load_program, tmp_path, capsys, monkeypatch, backbone, last
):
    program = load_program("depth_speed")
    monkeypatch.setattr(program, "ROWS", 128)
    options = argparse.Namespace(backbone=backbone, steps=1, sides=(48,))
    contenders = program.list_contenders(tmp_path, options)
    speeds = program.run_rounds(contenders, rounds=1)
    program.print_speeds(speeds)
    names = [
        f"{trained}, 48 px"
        for trained in ("plain loop", "all layers", f"last {last} blocks", "last 2 blocks")
    ]
    assert list(speeds) == names
    assert all(value > 0 for values in speeds.values() for value in values)
    assert [
        line.split(" | ")[0].strip("| ")
        for line in capsys.readouterr().out.splitlines()
        if " px" in line
    ] == names


@pytest.mark.slow
@needs_wait4
def test_many_images_are_indexed_from_every_source(load_program, tmp_path, capsys, monkeypatch):
    program = load_program("million")
    monkeypatch.setattr(program.time, "sleep", lambda seconds: None)
    program.main(["--images", "2000", "--only", "folder", "split", "--work", str(tmp_path)])
    rows = [line.split(" | ") for line in capsys.readouterr().out.splitlines() if "2,000" in line]
    assert [row[0] for row in rows] == ["| folder", "| folder", "| split"]
    assert all("kept" in row[-1] for row in rows)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.skipif(
    not hasattr(os, "posix_fadvise"), reason="this system does not forget files on demand"
)
def test_an_index_is_the_same_cold_and_warm(load_program, eth80_zip, tmp_path, capsys, monkeypatch):
    program = load_program("rereading")
    monkeypatch.setattr("squeezetune.data.sources.source.RACY_NS", -60_000_000_000)
    monkeypatch.setattr(program.time, "sleep", lambda seconds: None)
    words = [
        "--data",
        str(eth80_zip),
        "--work",
        str(tmp_path / "work"),
        "--set",
        "eth80",
        "--rounds",
        "2",
        "--from-disk",
    ]
    program.main(words)
    said = capsys.readouterr().out
    assert [line.split(" | ")[0] for line in said.splitlines()[3:7]] == [
        f"| {case}" for case in program.CASES
    ]
    assert "n=2" in said


@pytest.mark.slow
def test_exports_are_measured_once_and_compared_within_their_runtime(
    load_program, eth80_zip, tmp_path, capsys
):
    program = load_program("exports")
    words = [
        "--data",
        str(eth80_zip),
        "--work",
        str(tmp_path / "work"),
        "--models",
        "eth80",
        "--formats",
        "onnx",
        "--rounds",
        "1",
    ]
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SQUEEZETUNE_CACHE", "")  # the program sets its own
        program.main(words)
        first = capsys.readouterr().out
        program.main(words)
    again = capsys.readouterr().out
    assert "measured earlier" in again
    [row] = [line for line in first.splitlines() if line.startswith("| onnx |")]
    assert row in again
    cells = [cell.strip() for cell in row.strip("|").split("|")]
    assert cells[2].endswith("of 4")
    assert float(cells[4].strip("%")) >= 75  # of four photos one may be named otherwise
    assert cells[6] == cells[8] == "1.00 (1.00–1.00, n=1)"


def test_a_ratio_is_taken_within_a_round_and_a_runtime(load_program):
    program = load_program("exports")

    def make(base, *speeds):
        trials = [
            {"images_per_s": {"1": s, "32": 2 * s}, "cold_start_s": 0.5, "peak_mb": None}
            for s in speeds
        ]
        return {"base": base, "trials": trials}

    found = {
        "onnx": make("onnx", 10, 20, 40),
        "onnx-int8": make("onnx", 30, 40, 80),
        "torch": make("", 5, 5, 5),
    }
    assert program.describe_row("onnx-int8", found) == [
        *("onnx-int8", "–", "–", "–", "–"),
        *("40 (30–80, n=3)", "2.00 (2.00–3.00, n=3)", "80 (60–160, n=3)", "2.00 (2.00–3.00, n=3)"),
        *("0.50 (0.50–0.50, n=3)", "–"),
    ]
    assert program.describe_row("torch", found)[6] == "–"
