import hashlib
import json
import os
import pickle
import shutil
import subprocess
import sys
from pathlib import Path
from threading import Event, Thread

import pytest

from squeezetune.errors import ArtifactError
from squeezetune.model.artifact import (
    FORMAT,
    FORMAT_VERSION,
    MANIFEST,
    MODEL,
    NETWORK,
    REPORT,
    Manifest,
    check_target,
    read_manifest,
    read_report,
    remove_leftovers,
    stage_artifact,
    to_json,
)


def make_manifest(created="2026-01-01T00:00:00Z"):
    return Manifest(
        ("bee", "cow"), 64, "squash", 2, {"seed": 0}, {"train": 8}, {"numpy": "2"}, "0.1.0", created
    )


def write_model(folder, content=b"model"):
    with stage_artifact(folder) as staging:
        staging.write(NETWORK, content + b" network")
        staging.write(MODEL, content)
        staging.write("plots/some.png", b"png")
        staging.write(REPORT, to_json({"content": content.decode()}))
        staging.finish(make_manifest())


def write_half(folder, error):
    """Write a part of a model, and then meet an error."""
    with stage_artifact(folder) as staging:
        staging.write(MODEL, b"half")
        raise error


def test_a_model_from_before_there_was_a_choice_of_weights_is_read(model, folder):
    content = json.loads((folder / MANIFEST).read_bytes())
    del content["weights"]
    (folder / MANIFEST).write_text(json.dumps(content))
    assert read_manifest(folder).weights == {}


def list_names(folder):
    return sorted(path.name for path in folder.iterdir())


def list_tree(folder):
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*"))


def read_tree(folder):
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file()
    }


@pytest.fixture
def folder(tmp_path):
    return tmp_path / "bee-model"


@pytest.fixture
def model(folder):
    write_model(folder)
    return folder


def edit_manifest(folder, **changes):
    content = json.loads((folder / MANIFEST).read_bytes()) | changes
    (folder / MANIFEST).write_bytes(to_json(content))


# ---- written whole


def test_what_was_written_is_read(model):
    manifest = read_manifest(model)
    expected = vars(make_manifest()) | {"files": manifest.files}
    assert vars(manifest) == expected
    found = {
        name: hashlib.sha256(data).hexdigest()
        for name, data in read_tree(model).items()
        if name != MANIFEST
    }
    assert manifest.files == found
    assert read_report(model) == {"content": "model"}


def test_only_the_model_is_left_in_the_folders_place(model, tmp_path):
    assert list_names(tmp_path) == ["bee-model"]
    assert list_tree(model) == [MANIFEST, MODEL, NETWORK, "plots", "plots/some.png", REPORT]


def test_nothing_is_visible_before_all_is_written(folder, tmp_path):
    with stage_artifact(folder) as staging:
        staging.write(MODEL, b"model")
        assert not folder.exists()
        assert all(name.startswith(".") for name in list_names(tmp_path))
        staging.finish(make_manifest())
        assert not folder.exists()
    assert (folder / MANIFEST).is_file()


def test_the_manifest_comes_last(model):
    times = {name: (model / name).stat().st_mtime_ns for name in (MANIFEST, MODEL, NETWORK, REPORT)}
    assert max(times, key=times.get) == MANIFEST


@pytest.mark.parametrize("error", [ValueError("bug"), KeyboardInterrupt()])
def test_an_interruption_leaves_nothing(folder, tmp_path, error):
    with pytest.raises(type(error)):
        write_half(folder, error)
    assert list_names(tmp_path) == []


def test_an_interruption_leaves_the_older_model(model, tmp_path):
    before = read_tree(model)
    with pytest.raises(KeyboardInterrupt):
        write_half(model, KeyboardInterrupt())
    assert read_tree(model) == before
    assert list_names(tmp_path) == ["bee-model"]


def test_a_full_disk_is_told_and_leaves_the_older_model(model, monkeypatch):
    def fail(_):
        raise OSError(28, "No space left on device")

    before = read_tree(model)
    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(ArtifactError, match="No space left on device") as caught:
        write_model(model, b"new")
    assert "--output" in caught.value.hint
    assert read_tree(model) == before


def test_an_older_model_is_replaced_whole(model, tmp_path):
    (model / "notes.txt").write_text("of the old one")
    write_model(model, b"new")
    assert (model / MODEL).read_bytes() == b"new"
    assert "notes.txt" not in list_tree(model)
    assert list_names(tmp_path) == ["bee-model"]


def test_an_empty_folder_may_become_a_model(folder):
    folder.mkdir()
    write_model(folder)
    assert read_manifest(folder).class_names == ("bee", "cow")


def test_folders_above_are_made(tmp_path):
    write_model(tmp_path / "a" / "b" / "model")
    assert read_manifest(tmp_path / "a" / "b" / "model")


# ---- what is not ours stays


def test_a_foreign_folder_is_never_replaced(folder):
    folder.mkdir()
    (folder / "thesis.tex").write_text("years of work")
    for attempt in (check_target, write_model):
        with pytest.raises(ArtifactError, match="something else than a model"):
            attempt(folder)
    assert read_tree(folder) == {"thesis.tex": b"years of work"}


def test_a_foreign_folder_with_a_manifest_of_its_own_is_never_replaced(folder):
    folder.mkdir()
    (folder / MANIFEST).write_text('{"architecture": "another program"}')
    with pytest.raises(ArtifactError):
        write_model(folder)
    assert (folder / MANIFEST).read_text() == '{"architecture": "another program"}'


def test_a_file_is_never_replaced(folder):
    folder.write_text("a file")
    with pytest.raises(ArtifactError, match="is a file"):
        write_model(folder)
    assert folder.read_text() == "a file"


# ---- after a kill


def test_a_kill_between_the_two_renames_loses_nothing(model, tmp_path):
    before = read_tree(model)
    model.rename(tmp_path / ".bee-model.retired")
    (tmp_path / ".bee-model.0123456789ab.partial").mkdir()
    assert read_manifest(model).class_names == ("bee", "cow")
    assert read_tree(model) == before


def test_a_kill_before_the_older_model_is_removed_loses_nothing(model, tmp_path):
    shutil.copytree(model, tmp_path / ".bee-model.retired")
    write_model(model, b"new")
    assert (model / MODEL).read_bytes() == b"new"
    assert list_names(tmp_path) == ["bee-model"]


def test_a_failed_second_rename_loses_nothing(model, monkeypatch):
    before, rename = read_tree(model), Path.rename

    def fail_for_the_new_one(self, target):
        if self.name.endswith(".partial"):
            raise OSError(5, "Input/output error")
        return rename(self, target)

    monkeypatch.setattr(Path, "rename", fail_for_the_new_one)
    with pytest.raises(ArtifactError, match="Input/output error"):
        write_model(model, b"new")
    assert read_tree(model) == before


def test_leftovers_of_killed_runs_are_removed_and_nothing_else(tmp_path):
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    dead = (f".bee-model.{ended.pid}-0123.partial", ".bee-model.x-4567.partial")
    living = (
        f".bee-model.{os.getpid()}-89ab.partial",
        f".cow-model.{ended.pid}-0123.partial",
        "bee-model.partial",
    )
    for name in dead + living:
        (tmp_path / name).mkdir()
        (tmp_path / name / MODEL).write_bytes(b"half")
    remove_leftovers(tmp_path / "bee-model")
    assert list_names(tmp_path) == sorted(living)


def test_a_reader_never_disturbs_a_writer(model):
    failures, done = [], Event()

    def read():
        while not done.is_set():
            try:
                read_manifest(model)
            except ArtifactError as error:
                failures.append(error.message)

    reader = Thread(target=read)
    reader.start()
    try:
        for number in range(60):
            write_model(model, f"model {number}".encode())
    finally:
        done.set()
        reader.join()
    assert (model / MODEL).read_bytes() == b"model 59"
    assert failures == []


def test_a_model_may_be_in_the_current_folder(model, monkeypatch):
    monkeypatch.chdir(model)
    assert read_manifest(Path()).class_names == ("bee", "cow")
    with pytest.raises(ArtifactError):
        read_manifest(Path("/"))


def test_nothing_is_staged_inside_the_current_folder(model, monkeypatch):
    def note_and_stop():
        with stage_artifact(Path()) as staging:
            places.append(staging.path.parent)
            raise KeyboardInterrupt

    places = []
    monkeypatch.chdir(model)
    with pytest.raises(KeyboardInterrupt):
        note_and_stop()
    assert places == [model.parent]


# ---- read with care


def test_a_folder_that_is_not_there(folder):
    with pytest.raises(ArtifactError, match="there is no such folder") as caught:
        read_manifest(folder)
    assert "squeezetune train" in caught.value.hint


def test_a_folder_that_is_no_model(folder):
    folder.mkdir()
    with pytest.raises(ArtifactError, match=f"it has no {MANIFEST}"):
        read_manifest(folder)


@pytest.mark.parametrize(
    "content", ["", "[]", "null", "{}", '{"format": "other"}', "\x80", '{"format": "squeezetune']
)
def test_a_foreign_or_damaged_manifest(model, content):
    (model / MANIFEST).write_text(content, encoding="latin-1")
    with pytest.raises(ArtifactError) as caught:
        read_manifest(model)
    assert caught.value.hint


def test_a_manifest_that_misses_something(model):
    (model / MANIFEST).write_bytes(
        to_json({"format": FORMAT, "format_version": FORMAT_VERSION, "views": 2})
    )
    with pytest.raises(
        ArtifactError, match=r"class_names, image_side.* missing or of a wrong type"
    ):
        read_manifest(model)


@pytest.mark.parametrize("version", [FORMAT_VERSION + 1, 99, "1", None])
def test_a_newer_model(model, version):
    edit_manifest(model, format_version=version)
    with pytest.raises(ArtifactError, match=r"this program reads up to") as caught:
        read_manifest(model)
    assert "pip install --upgrade" in caught.value.hint


@pytest.mark.parametrize("name", [MODEL, NETWORK])
def test_a_damaged_file(model, name):
    (model / name).write_bytes(b"Model")
    with pytest.raises(ArtifactError, match=f"{name} is damaged"):
        read_manifest(model)


@pytest.mark.parametrize("name", [MODEL, NETWORK])
def test_a_missing_file(model, name):
    (model / name).unlink()
    with pytest.raises(ArtifactError, match="No such file"):
        read_manifest(model)


def test_a_file_that_the_manifest_does_not_vouch_for(model):
    edit_manifest(model, files={})
    with pytest.raises(ArtifactError, match="is damaged"):
        read_manifest(model)


@pytest.mark.parametrize("name", [MANIFEST, REPORT])
def test_values_within_values_without_end(model, name):
    (model / name).write_text('{"a":' * 100_000)
    with pytest.raises(ArtifactError, match="without end"):
        {MANIFEST: read_manifest, REPORT: read_report}[name](model)
    if name == MANIFEST:
        with pytest.raises(ArtifactError, match="something else than a model"):
            check_target(model)


def test_a_report_that_is_none(model):
    (model / REPORT).write_text("[1]")
    with pytest.raises(ArtifactError, match="is no report"):
        read_report(model)


@pytest.mark.parametrize("content", [None, "", "{"])
def test_a_damaged_report(model, content):
    (model / REPORT).unlink()
    if content is not None:
        (model / REPORT).write_text(content)
    with pytest.raises(ArtifactError, match=r"report\.json cannot be read"):
        read_report(model)


def test_no_pickle_is_ever_loaded(model, monkeypatch):
    monkeypatch.setattr(pickle, "loads", lambda *_, **__: pytest.fail("a pickle was loaded"))
    monkeypatch.setattr(pickle, "load", lambda *_, **__: pytest.fail("a pickle was loaded"))
    (model / MANIFEST).write_bytes(pickle.dumps({"format": FORMAT}))
    with pytest.raises(ArtifactError):
        read_manifest(model)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("files", None),
        ("class_names", "cat"),
        ("views", "2"),
        ("data", []),
        ("class_names", []),
        ("class_names", ["a", 1]),
        ("image_side", 0),
    ],
)
def test_a_manifest_with_values_of_a_wrong_type(model, name, value):
    path = model / MANIFEST
    path.write_text(json.dumps(json.loads(path.read_text()) | {name: value}))
    with pytest.raises(ArtifactError, match=f"{name} missing or of a wrong type"):
        read_manifest(model)
