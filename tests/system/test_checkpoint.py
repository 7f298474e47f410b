import json
import os
import random
import shutil
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest
from power_cut import RecordedDisk, list_outcomes, read_files

from squeezetune.errors import CheckpointError
from squeezetune.model.artifact import check_target, remove_leftovers, stage_artifact
from squeezetune.system import checkpoint as module
from squeezetune.system.checkpoint import (
    FORMAT_VERSION,
    NOTHING_KEPT,
    CheckpointFolder,
    CheckpointWriter,
    UnfinishedRun,
    find_checkpoint_folder,
)

IDENTITY = {
    "photos": "0123456789abcdef" * 4,
    "seed": 0,
    "libraries": {"torch": "2.4.1", "numpy": "2.1.0"},
}


@pytest.fixture
def folder(tmp_path):
    return CheckpointFolder(tmp_path / "run")


def make_state(number):
    return {
        "weight": np.full((3, 4), number, np.float32),
        "moment": np.full(5, -number, np.float64),
    }


def save_step(folder, number):
    folder.save(
        make_state(number), {"identity": IDENTITY, "step": number, "history": [0.5] * number}
    )


def check_step(checkpoint):
    """Return the step of a checkpoint after a look at whether all of it is of that step."""
    if checkpoint is None:
        return 0
    step = checkpoint.about["step"]
    assert checkpoint.about["history"] == [0.5] * step
    for name, tensor in make_state(step).items():
        np.testing.assert_array_equal(checkpoint.tensors[name], tensor)
    return step


def list_names(folder):
    return sorted(path.name for path in folder.path.iterdir())


# ---- saved and loaded


def test_what_was_saved_is_loaded(folder):
    rng = np.random.default_rng(0)
    tensors = {
        "kernel": rng.normal(size=(4, 3, 3, 3)).astype(np.float32),
        "transposed": rng.normal(size=(4, 5)).T,
        "every second": np.arange(10)[::2],
        "half": rng.normal(size=7).astype(np.float16),
        "scalar": np.array(3, np.int64),
        "none": np.empty((0, 2), np.float32),
        "flags": np.array([True, False]),
        "random generator": np.arange(5, dtype=np.uint8),
    }
    about = {
        "identity": IDENTITY,
        "step": 12,
        "loss": float("inf"),
        "best": None,
        "name": "Bienen \u00e4\udc80",
        "of": {"a": [1]},
    }
    folder.save(tensors, about)
    found = folder.load(IDENTITY)
    assert found.about == about
    assert set(found.tensors) == set(tensors)
    for name, tensor in tensors.items():
        assert found.tensors[name].dtype == tensor.dtype
        np.testing.assert_array_equal(found.tensors[name], tensor)
        assert found.tensors[name].flags.writeable


def test_a_run_that_begins_anew_loads_nothing(folder):
    folder.save({}, {"identity": IDENTITY, "step": 3})
    assert UnfinishedRun(folder, is_resuming=True).load(IDENTITY).about["step"] == 3
    for anew in (UnfinishedRun(folder), UnfinishedRun(None, is_resuming=True), NOTHING_KEPT):
        assert anew.load({"photos": "others"}) is None


def test_json_types_are_what_comes_back(folder):
    folder.save({}, {"pair": (1, 2), "by number": {10: "a", 9: "b"}, "loss": float("nan")})
    about = folder.load().about
    assert about["pair"] == [1, 2]
    assert about["by number"] == {"10": "a", "9": "b"}
    assert np.isnan(about["loss"])


def test_what_json_cannot_hold_is_a_mistake_of_the_program(folder):
    with pytest.raises(TypeError):
        folder.save({}, {"weights": np.zeros(3)})
    assert folder.load() is None


def test_nothing_is_found_where_nothing_was_saved(folder):
    assert folder.load() is None
    folder.path.mkdir()
    assert folder.load(IDENTITY) is None


def test_the_newest_is_loaded_and_the_one_before_is_kept(folder):
    for number in range(1, 13):
        save_step(folder, number)
        assert check_step(folder.load(IDENTITY)) == number
    expected = [
        "checkpoint-000011.json",
        "checkpoint-000012.json",
        "state-000011.safetensors",
        "state-000012.safetensors",
    ]
    assert list_names(folder) == expected


def test_what_a_killed_run_left_half_written_goes_with_the_next_save(folder):
    save_step(folder, 1)
    (folder.path / "state-000002.safetensors").write_bytes(b"no manifest yet")
    (folder.path / "state-000007.safetensors").write_bytes(b"no manifest yet")
    (folder.path / ".state-000002.safetensors.0123.tmp").write_bytes(b"half")
    assert check_step(folder.load()) == 1
    save_step(folder, 2)
    expected = [
        "checkpoint-000001.json",
        "checkpoint-000002.json",
        "state-000001.safetensors",
        "state-000002.safetensors",
    ]
    assert list_names(folder) == expected
    assert check_step(folder.load()) == 2


def test_removed_for_good(folder):
    for number in (1, 2, 3):
        save_step(folder, number)
    folder.remove()
    assert not folder.path.exists()
    assert folder.load() is None
    folder.remove()
    save_step(folder, 1)
    assert check_step(folder.load()) == 1


def test_what_is_not_ours_stays(folder):
    save_step(folder, 1)
    notes = folder.path / "notes.txt"
    notes.write_text("mine")
    save_step(folder, 2)
    folder.remove()
    assert list_names(folder) == ["notes.txt"]
    assert notes.read_text() == "mine"


# ---- the folder beside the model's


def test_the_folder_is_a_hidden_sibling_of_the_models(tmp_path, monkeypatch):
    assert find_checkpoint_folder(tmp_path / "bee-model") == tmp_path / ".bee-model.unfinished"
    (tmp_path / "bee-model").mkdir()
    monkeypatch.chdir(tmp_path / "bee-model")
    assert find_checkpoint_folder(Path()) == tmp_path / ".bee-model.unfinished"


def test_writing_the_model_leaves_the_unfinished_run_alone(tmp_path):
    output = tmp_path / "bee-model"
    folder = CheckpointFolder(find_checkpoint_folder(output))
    save_step(folder, 1)
    check_target(output)
    remove_leftovers(output)
    with stage_artifact(output) as staging:
        staging.write("some.txt", b"content")
    assert check_step(folder.load(IDENTITY)) == 1


# ---- whose run it is


def test_another_run_is_refused_with_all_that_differs(folder):
    save_step(folder, 1)
    other = {
        "photos": "f" * 64,
        "seed": 3,
        "libraries": {"torch": "2.5.0", "numpy": "2.1.0"},
        "threads": 2,
    }
    with pytest.raises(CheckpointError) as caught:
        folder.load(other)
    message = caught.value.message
    assert "seed is 3, the unfinished run had 0" in message
    assert 'libraries.torch is "2.5.0", the unfinished run had "2.4.1"' in message
    assert "threads is 2, the unfinished run had none" in message
    assert 'photos is "fffffffffffffffffffffff..., the' in message
    assert "numpy" not in message
    assert "--resume" in caught.value.hint


def test_a_difference_at_the_end_of_a_long_value_counts(folder):
    save_step(folder, 1)
    with pytest.raises(CheckpointError, match="photos is"):
        folder.load(IDENTITY | {"photos": IDENTITY["photos"][:-1] + "0"})


def test_what_the_new_run_does_not_say_differs_too(folder):
    save_step(folder, 1)
    with pytest.raises(CheckpointError, match="seed is none, the unfinished run had 0"):
        folder.load({name: value for name, value in IDENTITY.items() if name != "seed"})


def test_a_checkpoint_that_does_not_say_whose_it_is_goes_on_for_nobody(folder):
    folder.save({}, {"step": 1})
    assert folder.load().about == {"step": 1}
    with pytest.raises(CheckpointError, match="the unfinished run had none"):
        folder.load(IDENTITY)


def test_the_order_of_names_and_the_kind_of_sequence_do_not_matter(folder):
    folder.save({}, {"identity": {"a": (1, 2), "b": 2.0}})
    assert folder.load({"b": 2.0, "a": [1, 2]}) is not None


# ---- damage

DAMAGES = {
    "missing": lambda path: path.unlink(),
    "empty": lambda path: path.write_bytes(b""),
    "torn": lambda path: path.write_bytes(path.read_bytes()[:-7]),
    "zeroed": lambda path: path.write_bytes(bytes(path.stat().st_size)),
    "longer": lambda path: path.write_bytes(path.read_bytes() + b"x"),
    "foreign": lambda path: path.write_bytes(b'{"format": "squeezetune-checkpoint"}'),
    "a list": lambda path: path.write_bytes(b"[]"),
    "deep": lambda path: path.write_bytes(b"[" * 100_000),
    "a folder": lambda path: (path.unlink(), path.mkdir()),
}
PARTS = ["checkpoint-{:06}.json", "state-{:06}.safetensors"]


def damage(folder, number, part, kind):
    DAMAGES[kind](folder.path / part.format(number))


@pytest.mark.parametrize("part", PARTS)
@pytest.mark.parametrize("kind", DAMAGES)
def test_a_damaged_newest_one_costs_the_work_since_the_one_before(folder, part, kind):
    for number in (1, 2, 3):
        save_step(folder, number)
    damage(folder, 3, part, kind)
    assert check_step(folder.load(IDENTITY)) == 2
    if kind != "a folder":
        save_step(folder, 4)
        assert check_step(folder.load(IDENTITY)) == 4


@pytest.mark.parametrize("part", PARTS)
@pytest.mark.parametrize("kind", DAMAGES)
def test_without_a_whole_one_there_is_none(folder, part, kind):
    for number in (1, 2):
        save_step(folder, number)
    for number in (1, 2):
        damage(folder, number, part, kind)
    assert folder.load(IDENTITY) is None


def test_any_byte_of_a_manifest_may_change(folder):
    save_step(folder, 1)
    save_step(folder, 2)
    path, rng = folder.path / PARTS[0].format(2), random.Random(0)
    payload = path.read_bytes()
    for place in range(len(payload)):
        path.write_bytes(payload[:place] + bytes([rng.randrange(256)]) + payload[place + 1 :])
        assert check_step(folder.load(IDENTITY)) in (
            1,
            2,
        )  # 2 where the byte is the same, or a space


@pytest.mark.parametrize(
    "part", ["format_version", "state", "about", "state.sha256", "about.identity"]
)
@pytest.mark.parametrize("value", [None, [], "x"])
def test_a_sealed_manifest_that_lacks_something_does_not_count(folder, part, value):
    save_step(folder, 1)
    path = folder.path / PARTS[0].format(1)
    content = json.loads(path.read_text())
    content.pop("checksum")
    place, _, key = part.rpartition(".")
    (content[place] if place else content)[key] = value
    path.write_text(json.dumps(content | {"checksum": module._checksum(content)}))
    assert folder.load(IDENTITY) is None


def test_a_newer_version_is_told(folder, monkeypatch):
    monkeypatch.setattr(module, "FORMAT_VERSION", FORMAT_VERSION + 1)
    save_step(folder, 1)
    monkeypatch.undo()
    with pytest.raises(CheckpointError, match="reads up to") as caught:
        folder.load()
    assert "pip install --upgrade" in caught.value.hint


def test_a_full_disk_is_told_and_leaves_the_earlier_ones(folder, monkeypatch):
    def fail(_):
        raise OSError(28, "No space left on device")

    save_step(folder, 1)
    save_step(folder, 2)
    before = read_files(folder.path)
    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(CheckpointError, match="No space left on device"):
        save_step(folder, 3)
    monkeypatch.undo()
    assert read_files(folder.path) == before
    assert check_step(folder.load()) == 2


def test_a_file_in_the_folders_place_is_told(folder):
    folder.path.write_text("a file")
    with pytest.raises(CheckpointError, match="cannot be saved"):
        save_step(folder, 1)
    with pytest.raises(CheckpointError, match="cannot be read"):
        folder.load()
    folder.remove()
    assert folder.path.read_text() == "a file"


@pytest.mark.skipif(
    not hasattr(os, "geteuid") or os.geteuid() == 0, reason="permissions do not bind this user"
)
def test_a_folder_that_may_not_be_read_is_told(folder):
    save_step(folder, 1)
    (folder.path / PARTS[0].format(1)).chmod(0)
    with pytest.raises(CheckpointError, match="Permission denied"):
        folder.load()


# ---- power cuts


def record_saves(folder, disk, saves):
    """Save some checkpoints; return after how many of the disk's changes each was complete."""
    completed = []
    for number in range(1, saves + 1):
        save_step(folder, number)
        completed.append(len(disk.changes))
    return completed


def restore(files, root, other):
    """Put the files of one folder, and no others, below another one."""
    shutil.rmtree(other, ignore_errors=True)
    for path, content in files.items():
        target = other / path.relative_to(root)
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(content)


def load_after_power_cuts(root, changes, run, scratch):
    """Yield the step that is loaded from each state in which a power cut may leave the disk."""
    for files in list_outcomes(root, changes):
        restore(files, root, scratch)
        yield check_step(CheckpointFolder(scratch / run.relative_to(root)).load(IDENTITY))


@pytest.fixture
def disk(tmp_path, monkeypatch):
    root = tmp_path / "disk"
    root.mkdir()
    recorded = RecordedDisk(root, monkeypatch)
    yield recorded
    recorded.close()


def test_the_recorded_disk_is_the_real_one(disk):
    folder = CheckpointFolder(disk.root / "models" / "run")
    record_saves(folder, disk, 4)
    folder.remove()
    record_saves(folder, disk, 3)
    outcomes = list(list_outcomes(disk.root, disk.changes))
    assert read_files(disk.root) in outcomes


def test_a_power_cut_at_any_moment_leaves_the_newest_complete_one_or_the_one_being_saved(
    disk, tmp_path, monkeypatch
):
    folder = CheckpointFolder(disk.root / "models" / "run")
    completed = record_saves(folder, disk, 4)
    monkeypatch.undo()
    seen = set()
    for length in range(len(disk.changes) + 1):
        newest = sum(length >= end for end in completed)
        steps = set(
            load_after_power_cuts(disk.root, disk.changes[:length], folder.path, tmp_path / "after")
        )
        is_saving = length not in completed
        assert steps <= ({newest, newest + 1} if is_saving else {newest}), (length, newest, steps)
        seen |= steps
    assert seen == {0, 1, 2, 3, 4}


def test_a_power_cut_never_brings_removed_ones_back_among_new_ones(disk, tmp_path, monkeypatch):
    folder = CheckpointFolder(disk.root / "run")
    record_saves(folder, disk, 3)
    folder.remove()
    removed = len(disk.changes)
    save_step(folder, 5)
    saved = len(disk.changes)
    monkeypatch.undo()
    for length in range(removed, saved + 1):
        steps = set(
            load_after_power_cuts(disk.root, disk.changes[:length], folder.path, tmp_path / "after")
        )
        assert steps <= ({5} if length == saved else {0, 5})


@pytest.mark.parametrize("forgotten", ["files", "folders"])
def test_these_power_cuts_find_a_sync_that_was_forgotten(disk, tmp_path, monkeypatch, forgotten):
    folder = CheckpointFolder(disk.root / "run")
    completed = record_saves(folder, disk, 2)
    monkeypatch.undo()
    is_folder = {
        change.inode: change.path.suffix == "" for change in disk.changes if change.kind == "fsync"
    }
    kept = [
        c
        for c in disk.changes
        if c.kind != "fsync" or is_folder[c.inode] != (forgotten == "folders")
    ]
    assert len(kept) < len(disk.changes) == completed[-1]
    assert any(
        step < 2 for step in load_after_power_cuts(disk.root, kept, folder.path, tmp_path / "after")
    )


# ---- real kills

SAVES_IN_A_LOOP = """
import sys
import numpy as np
from pathlib import Path
from squeezetune.system.checkpoint import CheckpointFolder, CheckpointWriter

folder = CheckpointFolder(Path(sys.argv[1]))
found = folder.load({"seed": 0})
step = found.about["step"] if found else 0
print(step, flush=True)
with CheckpointWriter(folder) as writer:
    state = np.empty(200_000, np.float32)
    while True:
        step += 1
        state[:] = step
        writer.save({"a": state[:1000], "b": state}, {"identity": {"seed": 0}, "step": step})
        state[:] = -1
        if "wait" in sys.argv:
            writer.wait()
            print(step, flush=True)
"""


def run_and_kill(folder, mode, seconds):
    """Start a program that saves all the time, kill it, and return the last step that it has
    reported.
    """
    command = [sys.executable, "-c", SAVES_IN_A_LOOP, str(folder.path), mode]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        first = process.stdout.readline()
        time.sleep(seconds)
        process.kill()
        said = (first + process.stdout.read()).split("\n")[:-1]  # the last line may be half a one
    return int(said[0]), int(said[-1])


def kill_and_load(folder, kills):
    rng, step = random.Random(0), 0
    for number in range(kills):
        mode = ("wait", "go on")[number % 2]
        start, reported = run_and_kill(folder, mode, 0.15 * rng.random())
        assert start == step
        found = folder.load({"seed": 0})
        step = found.about["step"] if found else 0
        assert (
            {len(tensor) for tensor in found.tensors.values()} == {1000, 200_000}
            if found
            else step == 0
        )
        assert (
            all((tensor == step).all() for tensor in found.tensors.values()) if found else step == 0
        )
        assert step >= reported
        assert mode == "go on" or step <= reported + 1
    assert step > kills  # it did go on
    assert len(list_names(folder)) <= 6 + kills


@pytest.mark.slow
def test_killed_runs_always_leave_a_whole_one(folder):
    kill_and_load(folder, kills=8)


@pytest.mark.slow
def test_forty_killed_runs_always_leave_a_whole_one(folder):
    kill_and_load(folder, kills=40)


# ---- in the background


def test_the_writer_saves_a_copy_of_the_state_as_it_was(folder):
    state, about = make_state(1), {"identity": IDENTITY, "step": 1, "history": [0.5]}
    with CheckpointWriter(folder) as writer:
        writer.save(state, about)
        for tensor in state.values():
            tensor[:] = 99
        about["history"].append(0.4)
    assert check_step(folder.load(IDENTITY)) == 1


def test_the_writer_does_not_wait_for_the_disk_and_saves_in_order(folder, monkeypatch):
    is_open, fsync = threading.Event(), os.fsync

    def wait_and_sync(handle):
        assert is_open.wait(20)
        fsync(handle)

    monkeypatch.setattr(os, "fsync", wait_and_sync)
    with CheckpointWriter(folder) as writer:
        writer.save(make_state(1), {"step": 1, "history": [0.5]})
        assert folder.load() is None
        is_open.set()
        writer.save(make_state(2), {"step": 2, "history": [0.5] * 2})
        assert check_step(folder.load()) >= 1
        writer.wait()
        assert check_step(folder.load()) == 2


def test_the_writer_ends_its_work_when_the_run_is_interrupted(folder):
    def save_and_stop():
        with CheckpointWriter(folder) as writer:
            writer.save(make_state(1), {"step": 1, "history": [0.5]})
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        save_and_stop()
    assert check_step(folder.load()) == 1
    assert "checkpoint" not in {thread.name.split("_")[0] for thread in threading.enumerate()}


def test_a_checkpoint_that_cannot_be_saved_does_not_end_the_run_and_is_told_once(folder):
    said = []
    folder.path.write_text("a file is in the way")
    with CheckpointWriter(folder, said.append) as writer:
        for number in (1, 2, 3):
            writer.save(make_state(number), {"step": number})
    [notice] = said
    assert "cannot be saved" in notice.message
    assert "The run goes on" in notice.message


def test_the_writer_tells_a_mistake_of_the_program(folder):
    with CheckpointWriter(folder) as writer, pytest.raises(TypeError):
        writer.save({}, {"weights": np.zeros(3)})


# ---- the file itself


def test_the_manifest_can_be_read_by_people_and_by_others(folder):
    save_step(folder, 1)
    content = json.loads((folder.path / PARTS[0].format(1)).read_text())
    assert content["format"] == "squeezetune-checkpoint"
    assert content["state"]["file"] == PARTS[1].format(1)
    assert content["state"]["bytes"] == (folder.path / PARTS[1].format(1)).stat().st_size
    assert content["about"]["step"] == 1
