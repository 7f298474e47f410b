"""Outputs that several runs want, that are links, or that cannot be written: what a user does at
the terminal.
"""

import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import pytest
from click.testing import CliRunner
from fast_options import FAST

from squeezetune.cli.main import main
from squeezetune.model.classifier import load
from squeezetune.system.disk import open_cache
from squeezetune.training import train

pytestmark = pytest.mark.usefixtures("no_plots")


def start(*words):
    """Run a command as a user does; returns its exit status and what it said."""
    done = subprocess.run(
        [sys.executable, "-m", "squeezetune", *map(str, words)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert "Traceback" not in done.stderr
    return done.returncode, done.stdout + done.stderr


def call(*words):
    """Run a command within this process; returns its exit status and what it said."""
    done = CliRunner().invoke(main, [str(word) for word in words])
    assert done.exception is None, done.exception
    return done.exit_code, done.output


@pytest.mark.slow
def test_of_several_trainings_into_one_output_one_wins_and_the_others_say_so_before_the_work(
    shape_folder, tmp_path
):
    words = ["train", shape_folder, "--output", tmp_path / "model", "--quiet", *FAST]
    with ThreadPoolExecutor(3) as pool:
        results = list(pool.map(lambda _: start(*words), range(3)))
    losers = [said for status, said in results if status]
    assert 1 <= len(losers) <= 2
    assert all("another run is writing to" in said and "process" in said for said in losers)
    assert load(tmp_path / "model").predict(shape_folder / "box" / "000.png").label == "box"
    assert [path.name for path in tmp_path.iterdir()] == ["model"]


def test_two_predictions_into_one_file_double_no_line(model_folder, shape_folder, tmp_path):
    words = ["predict", model_folder, shape_folder, "--output", tmp_path / "lines.csv", "--quiet"]
    with ThreadPoolExecutor(2) as pool:
        results = sorted(pool.map(lambda _: start(*words), range(2)))
    assert results[0][0] == 0
    assert results[1][0] == 0 or any(
        word in results[1][1] for word in ("another run is writing", "exists")
    )
    assert len((tmp_path / "lines.csv").read_text().splitlines()) == 61
    assert [path.name for path in tmp_path.iterdir()] == ["lines.csv"]


def test_an_output_that_is_a_link_stays_one_and_can_be_written_again(
    shape_folder, fixed_settings, tmp_path
):
    (tmp_path / "disk").mkdir()
    (tmp_path / "model").symlink_to(tmp_path / "disk" / "shapes")
    for _ in range(2):
        train(shape_folder, tmp_path / "model", fixed_settings)
        assert (tmp_path / "model").is_symlink()
        assert load(tmp_path / "model").class_names == ("box", "disc", "spike")
        assert [path.name for path in (tmp_path / "disk").iterdir()] == ["shapes"]
    assert [path.name for path in sorted(tmp_path.iterdir())] == ["disk", "model"]


@pytest.mark.slow
def test_where_the_cache_cannot_be_used_a_run_says_so_and_goes_on(
    shape_folder, model_folder, tmp_path, monkeypatch
):
    (tmp_path / "cache").write_text("no folder")
    monkeypatch.setenv("SQUEEZETUNE_CACHE", str(tmp_path / "cache" / "inner"))
    commands = [
        ["train", shape_folder, *FAST],
        ["check", shape_folder, *FAST[:2], *FAST[-4:]],
        ["export", model_folder, "-f", "onnx"],
        ["evaluate", model_folder, shape_folder],
    ]
    for number, words in enumerate(commands):
        output = [] if words[0] == "evaluate" else ["--output", tmp_path / str(number)]
        status, said = call(*words, *output)
        assert status == 0, said
        assert (
            words[0] == "evaluate"
            or said.count("so nothing is kept for the next time: Not a directory") == 1
        )


def test_a_folder_of_the_cache_that_belongs_to_another_user_is_said_once(empty_cache, monkeypatch):
    (empty_cache / "features" / "key").mkdir(parents=True)
    said = []
    assert open_cache(said.append) == empty_cache
    monkeypatch.setattr(os, "access", lambda path, mode: "key" not in str(path))
    assert open_cache(said.append) is None
    assert [event.message for event in said] == [
        f"the cache in {empty_cache} cannot be used, so nothing is kept for the next time: "
        f"{empty_cache / 'features' / 'key'} may not be written to"
    ]


def test_what_a_killed_run_left_beside_an_output_is_removed_by_the_next(
    model_folder, shape_folder, tmp_path
):
    leftovers = [
        tmp_path / f".{name}.4194303-0123456789ab.partial"
        for name in ("exported", "checked", "model")
    ]
    for folder in leftovers:
        folder.mkdir()
    alive = tmp_path / f".exported.{os.getpid()}-0123456789ab.partial"
    alive.mkdir()
    for name, words in {
        "exported": ["export", model_folder, "-f", "onnx", "--no-measure"],
        "checked": ["check", shape_folder, *FAST[:2], *FAST[-4:]],
        "model": ["train", shape_folder, *FAST],
    }.items():
        assert call(*words, "--output", tmp_path / name, "-q")[0] == 0
    assert {path.name for path in tmp_path.iterdir()} == {
        "exported",
        "checked",
        "model",
        alive.name,
    }
