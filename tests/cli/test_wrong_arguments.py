"""Arguments that people give by mistake are told apart, each with what to do about it."""

import pytest
from click.testing import CliRunner

from squeezetune.cli.main import main


@pytest.fixture
def run():
    def call(*words):
        done = CliRunner().invoke(main, [str(word) for word in words])
        assert not isinstance(done.exception, Exception), done.exception
        return done.exit_code, done.stderr.splitlines()

    return call


@pytest.fixture
def photo(shape_folder):
    return shape_folder / "box" / "000.png"


def test_a_photo_that_never_was_is_not_called_gone(run, model_folder):
    status, said = run("predict", model_folder, "nowhere.jpg")
    assert (status, said) == (1, ["Error: nowhere.jpg: there is no such file"])


def test_a_photo_that_went_away_is_gone(run, model_folder, write_shapes, tmp_path, monkeypatch):
    from squeezetune.data.sources.folder import FolderSource

    photos = write_shapes(tmp_path / "photos", 1)
    read = FolderSource.read

    def remove_first(source, name):
        (source.root / name).unlink()
        return read(source, name)

    monkeypatch.setattr(FolderSource, "read", remove_first)
    status, said = run("predict", model_folder, photos)
    assert status == 1
    assert [line.rpartition(": ")[2] for line in said] == ["the file is gone"] * 3


@pytest.mark.parametrize("command", ["train", "check", "evaluate", "predict"])
def test_an_address_of_the_web_is_told_as_such(run, command, model_folder, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    words = [model_folder] if command in ("evaluate", "predict") else []
    status, said = run(command, *words, "https://example.org/photos.jpg")
    assert status == 1
    assert "an address of the web, and only what is on this computer is read" in said[0]
    assert "ownload it first" in " ".join(said)


@pytest.mark.parametrize("command", ["predict", "evaluate"])
@pytest.mark.parametrize("place", ["box/000.png", "", "nowhere.jpg"])
def test_a_model_and_photos_in_the_wrong_order(run, command, place, model_folder, shape_folder):
    status, said = run(command, shape_folder / place, model_folder)
    assert status == 1
    assert said == [
        f"Error: {shape_folder / place} is no model, but {model_folder} is",
        f"Hint: The model comes first: squeezetune {command} {model_folder} {shape_folder / place}",
    ]


@pytest.mark.parametrize("words", [["info"], ["export"], ["serve"], ["predict"]])
def test_a_photo_in_the_place_of_a_model(run, words, photo, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    status, said = run(*words, photo, *([photo] if words == ["predict"] else []))
    assert status == 1
    assert "000.png is " in said[0]
    assert "squeezetune" in said[1]  # what writes a model
    assert "rotobuf" not in said[0]


def test_a_file_that_is_no_onnx_is_told_without_its_parsers_words(run, tmp_path, photo):
    (tmp_path / "model.onnx").write_bytes(b"not a model at all")
    status, said = run("predict", tmp_path / "model.onnx", photo)
    assert status == 1
    assert said[0].endswith("it is no ONNX")
    assert "rotobuf" not in said[0]
