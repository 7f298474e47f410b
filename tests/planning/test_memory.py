import subprocess
import sys
from dataclasses import replace

import pytest
from fast_options import FAST

from squeezetune.data.index import index_photos
from squeezetune.data.split import split_index
from squeezetune.errors import SettingsError
from squeezetune.events import Notice
from squeezetune.network.zoo import NETWORKS
from squeezetune.pipeline.context import open_context
from squeezetune.pipeline.preparation import prepare_run
from squeezetune.planning import memory as module
from squeezetune.planning.memory import (
    MB,
    MemoryInputs,
    apply_plan,
    count_micro,
    forecast_memory,
    format_size,
    plan_memory,
)
from squeezetune.quantities import parse_size
from squeezetune.settings import Settings
from squeezetune.system.monitor import measure_held_memory
from squeezetune.training import train

# CIFAR-10, and all layers to be trained
DEMAND = MemoryInputs(
    images=50_000,
    train=30_000,
    validation=10_000,
    classes=10,
    side=128,
    decoded_bytes=10_000,
    is_deep=True,
    is_probed=True,
)
FROZEN = replace(DEMAND, is_deep=False)


@pytest.fixture(autouse=True)
def with_openvino(monkeypatch):
    monkeypatch.setattr(module, "find_spec", lambda name: object())


def plan(max_ram="", demand=DEMAND, threads=2, **settings):
    return plan_memory(demand, Settings(max_ram=max_ram, **settings), threads)


def forecast(demand=DEMAND, **changes):
    provision = replace(plan().provision, **changes)
    return {item.stage: item.peak for item in forecast_memory(demand, provision)}


# ---- the forecast


def test_what_is_held_of_a_foreign_network_counts_in_every_stage():
    heavy = replace(FROZEN, network=replace(FROZEN.network, held_bytes=50 * MB))
    before, after = forecast(FROZEN), forecast(heavy)
    assert {stage: peak - before[stage] for stage, peak in after.items()} == dict.fromkeys(
        before, 50 * MB
    )


def test_stages_are_forecast_in_their_order():
    assert list(forecast()) == [
        "preparing",
        "features",
        "near-duplicates",
        "head",
        "probe",
        "pixels",
        "all layers",
        "measuring",
        "report",
    ]
    assert "all layers" not in forecast(FROZEN)
    last = forecast(replace(DEMAND, is_last=True))
    assert list(last)[4:7] == ["probe", "activations", "last blocks"]
    assert last["activations"] > forecast()["pixels"]  # an engine runs meanwhile
    assert "all layers" not in forecast(is_deep=False)


@pytest.mark.parametrize(
    ("change", "stages"),
    [
        (
            {"threads": 1},
            [
                "preparing",
                "features",
                "head",
                "probe",
                "pixels",
                "all layers",
                "measuring",
                "report",
            ],
        ),
        (
            {"engine": "onnxruntime"},
            [
                "preparing",
                "features",
                "near-duplicates",
                "head",
                "probe",
                "pixels",
                "all layers",
                "measuring",
                "report",
            ],
        ),
        ({"micro_pixels": 128**2}, ["preparing", "all layers"]),
        ({"held_bytes": 16 * MB}, ["head", "probe"]),
        ({"views": 1}, ["features", "head", "probe"]),
    ],
)
def test_what_is_given_up_saves_memory_in_its_stages(change, stages):
    before, after = forecast(held_bytes=200 * MB), forecast(**{"held_bytes": 200 * MB, **change})
    assert [stage for stage in before if after[stage] < before[stage]] == stages


@pytest.mark.parametrize(
    "change", [{"images": 200_000}, {"classes": 500}, {"side": 512}, {"decoded_bytes": 50 * MB}]
)
def test_more_work_takes_more_memory(change):
    before, after = forecast(), forecast(replace(DEMAND, **change))
    assert all(after[stage] >= before[stage] for stage in before)
    assert sum(after.values()) > sum(before.values())


def test_torch_counts_from_the_start_where_the_machine_is_measured_with_it():
    early, late = forecast(), forecast(replace(DEMAND, is_probed=False))
    assert early["features"] - late["features"] == module.TORCH
    assert early["all layers"] == late["all layers"]


def test_a_teacher_runs_beside_the_layers_that_learn_from_it():
    lite = NETWORKS["efficientnet_lite0"].size
    alone, taught = forecast(), forecast(replace(DEMAND, teacher=lite))
    more = {stage: taught[stage] - alone[stage] for stage in alone if taught[stage] > alone[stage]}
    assert set(more) <= {"preparing", "all layers"}
    assert 100e6 < more["all layers"] < 600e6


def test_float32_takes_twice_the_memory_of_activations_for_half_as_many_images():
    pixels = 4 * DEMAND.side**2
    half, whole = (
        forecast(replace(DEMAND, has_bfloat16=has), micro_pixels=pixels)["all layers"]
        for has in (True, False)
    )
    assert whole - half == 2 * 900 * pixels
    assert forecast(replace(DEMAND, has_bfloat16=False))["all layers"] == forecast()["all layers"]


@pytest.mark.parametrize(
    ("side", "micro_pixels", "images"),
    [
        (128, float("inf"), 36),
        (224, float("inf"), 11),
        (512, float("inf"), 4),
        (128, 128**2 * 3, 3),
        (512, 100, 1),
        (32, 1e9, 576),
    ],
)
def test_images_at_once_on_a_thread(side, micro_pixels, images):
    assert count_micro(side, micro_pixels) == images


def test_float32_takes_half_as_many_images_at_once():
    assert count_micro(128, has_bfloat16=False) == 18


def test_the_forecast_knows_how_many_images_the_training_takes_at_once():
    pytest.importorskip("torch", reason="torch, which trains layers, is not installed")
    from squeezetune.finetune import workers as crew

    for side in (32, 96, 128, 160, 224, 512):
        assert count_micro(side, float("inf")) == crew.count_micro(side)


# ---- the choice


def test_without_a_ceiling_nothing_is_given_up():
    free = plan(effort="thorough", engine="auto")
    assert free.ceiling is None
    settings = Settings(effort="thorough")
    assert apply_plan(free, settings) is settings


def test_a_high_ceiling_changes_nothing_but_says_so():
    roomy = plan("8GB")
    assert roomy.provision == plan().provision
    assert roomy.ceiling == 8e9


@pytest.mark.parametrize(
    "demand", [DEMAND, FROZEN, replace(FROZEN, side=512), replace(DEMAND, decoded_bytes=5 * MB)]
)
@pytest.mark.parametrize("ceiling", ["600MB", "1GB", "2GB"])
@pytest.mark.parametrize("threads", [1, 2, 8, 64])
def test_a_plan_fits_under_its_ceiling(demand, ceiling, threads):
    assert plan(ceiling, demand, threads).peak <= parse_size(ceiling)


def test_lower_ceilings_give_up_more_in_the_order_of_what_it_costs():
    peaks, given_up = [], []
    for ceiling in range(1500, 330, -10):
        try:
            chosen = plan(f"{ceiling}MB", threads=4)
        except SettingsError:
            break
        peaks.append(chosen.peak)
        given_up.append((chosen.provision.threads, chosen.provision.is_deep))
    assert peaks == sorted(peaks, reverse=True)
    assert given_up == sorted(given_up, key=lambda item: (item[1], item[0]), reverse=True)
    assert given_up[0] == (4, True)
    assert given_up[-1] == (1, False)


def test_what_the_user_has_said_is_not_given_up():
    said = {"engine": "openvino", "views": "mirror", "layers": "all"}
    chosen = plan("600MB", threads=16, **said)
    kept = apply_plan(chosen, Settings(max_ram="600MB", **said))
    assert {name: getattr(kept, name) for name in said} == said
    assert kept.threads == chosen.provision.threads < 16


def test_settings_say_what_was_chosen():
    chosen = plan("380MB", FROZEN, threads=8, effort="thorough")
    settings = apply_plan(chosen, Settings(max_ram="380MB", effort="thorough"))
    assert (settings.engine, settings.layers) == ("onnxruntime", "head")
    assert settings.views in {"auto", "mirror", "plain"}
    assert settings.threads == chosen.provision.threads


# ---- the refusal


@pytest.mark.parametrize(("demand", "settings"), [
    (DEMAND, {"layers": "all"}), (FROZEN, {}), (replace(FROZEN, side=512), {"engine": "openvino"}),
    (replace(FROZEN, decoded_bytes=900 * MB), {}),
])  # fmt: skip
def test_what_cannot_fit_is_refused_with_the_smallest_ceiling_that_would_do(demand, settings):
    with pytest.raises(
        SettingsError, match=r"max_ram is 100MB, and the stage '.*' needs"
    ) as caught:
        plan("100MB", demand, threads=4, **settings)
    smallest = caught.value.hint.split("--max-ram ")[1].split()[0]
    assert plan(smallest, demand, threads=4, **settings).peak <= parse_size(smallest)
    with pytest.raises(SettingsError):
        plan(f"{parse_size(smallest) - 11 * MB}B", demand, threads=4, **settings)


def test_the_refusal_says_what_would_do_without_training_layers():
    with pytest.raises(SettingsError, match="for these 50,000 photos") as caught:
        plan("100MB", layers="all")
    smallest = caught.value.hint.split("with --layers head ")[1].split()[0]
    assert plan(smallest, layers="head", demand=FROZEN).peak <= parse_size(smallest)


@pytest.mark.parametrize(
    ("size", "text"), [(1, "10MB"), (10 * MB, "10MB"), (451_200_000, "460MB"), (2e9, "2000MB")]
)
def test_ceilings_are_named_rounded_up(size, text):
    assert format_size(int(size)) == text


# ---- real runs


def test_a_run_that_cannot_fit_leaves_nothing(shape_folder, fixed_settings, tmp_path):
    with pytest.raises(SettingsError, match="max_ram is 50MB"):
        train(shape_folder, tmp_path / "model", fixed_settings, max_ram="50MB")
    assert list(tmp_path.iterdir()) == []


def test_layers_that_do_not_fit_are_left_as_they_are_and_the_user_hears_of_it(
    shape_folder, fixed_settings, executor
):
    pytest.importorskip("torch", reason="torch, which trains layers, is not installed")
    index, heard = index_photos(shape_folder, executor=executor), []
    settings = replace(fixed_settings, max_ram="350MB", budget="5m")
    split = split_index(index, validation=0.2, test=0.2, seed=0)
    scene = prepare_run(index, split, open_context(settings, None, heard.append))
    assert scene.settings.layers == "head"
    assert heard == [
        Notice("layers cannot be trained within 350MB of memory, so the head alone is")
    ]


WATCH = """
import sys
from squeezetune.cli.main import main
from squeezetune.system.monitor import MemoryMonitor
with MemoryMonitor() as gauge:
    main(sys.argv[1:], standalone_mode=False)
print(gauge.peak)
"""


@pytest.mark.slow
@pytest.mark.skipif(
    measure_held_memory() is None, reason="only Linux tells what memory is used for"
)
def test_a_real_run_stays_under_its_ceiling(shape_folder, tmp_path):
    """A process of its own, since this one holds what other tests have left."""
    words = [
        "train",
        str(shape_folder),
        "-o",
        str(tmp_path / "model"),
        "--quiet",
        *FAST,
        "--max-ram",
        "360MB",
    ]
    done = subprocess.run(
        [sys.executable, "-c", WATCH, *words], capture_output=True, text=True, check=True
    )
    assert 50 * MB < int(done.stdout.splitlines()[-1]) < 360 * MB
