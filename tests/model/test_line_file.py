import json
import subprocess
import sys

import pytest

from squeezetune.errors import CheckpointError, ImageError, OutputError
from squeezetune.model.classifier import Prediction
from squeezetune.model.output import BLOCK, READABLE, LineFile, LineOptions, Row

OPTIONS = LineOptions(("c", "d"))
PREDICTION = Prediction("c", 0.75, {"c": 0.75, "d": 0.25})
IDENTITY = {"model": "abc", "format": "csv"}


@pytest.fixture(params=READABLE)
def open_file(request, tmp_path):
    def open_lines(**changed):
        return LineFile(
            tmp_path / "lines.out", READABLE[request.param](OPTIONS), {**IDENTITY, **changed}
        )

    return open_lines


def write_lines(file, count, first=0, finish=True):
    with file:
        for number in range(first, first + count):
            outcome = ImageError("gone") if number % 10 == 3 else PREDICTION
            file.append(file.lines.write(f"{number}\n.jpg", outcome))
        if finish:
            file.finish()
    return file.path.read_bytes()


def test_a_finished_file_leaves_nothing_beside_it(open_file, tmp_path):
    content = write_lines(open_file(), 3)
    assert content.decode().count("gone") == 0
    assert [path.name for path in tmp_path.iterdir()] == ["lines.out"]
    assert [row.title for row in open_file().read_back()] == ["0\n.jpg", "1\n.jpg", "2\n.jpg"]


def test_what_a_kill_left_beside_a_file_is_removed(open_file, tmp_path):
    state = str(open_file().state)
    code = (
        "import os, pathlib; from squeezetune.system.disk import write_file; os.fsync = lambda "
        "_: os._exit(9); "
    )
    subprocess.run(
        [sys.executable, "-c", f"{code}write_file(pathlib.Path({state!r}), b'half')"], check=False
    )
    assert [path.suffix for path in tmp_path.iterdir()] == [".tmp"]
    write_lines(open_file(), 1)
    assert {path.name for path in tmp_path.iterdir() if path.suffix != ".lock"} == {"lines.out"}


def test_a_file_that_was_closed_early_is_gone_on_with(open_file):
    whole = write_lines(open_file(), 200)
    open_file().path.unlink()
    write_lines(open_file(), 150, finish=False)
    file = open_file()
    file.check(resume=True)
    assert list(file.read_back()) == [
        Row(f"{number}\n.jpg", number % 10 == 3) for number in range(150)
    ]
    assert write_lines(file, 50, first=150) == whole


def test_a_torn_or_damaged_end_is_cut_off(open_file):
    whole = write_lines(open_file(), 5)
    lines = len(list(open_file().read_back()))
    for junk in (b"6\n.jp", b'"', b"\0" * 100, b"\0\0\n\0\n", b"7.jpg,c\n"):
        open_file().path.write_bytes(whole + junk)
        assert len(list(open_file().read_back())) == lines
        assert open_file().path.read_bytes() == whole


def test_lines_are_in_the_file_when_their_block_is_full(open_file):
    with open_file() as file:
        for number in range(2 * BLOCK + 5):
            file.append(file.lines.write(f"{number}.jpg", PREDICTION))
        there = file.path.read_bytes().count(b"\n")
        assert 2 * BLOCK <= there < 2 * BLOCK + 5
        assert json.loads(file.state.read_bytes()) == IDENTITY


def test_a_file_that_is_there_is_not_overwritten(open_file):
    open_file().path.write_bytes(b"precious")
    with pytest.raises(CheckpointError, match="exists"):
        open_file().check(resume=False)
    with pytest.raises(CheckpointError, match="was not begun by this program"):
        open_file().check(resume=True)
    assert open_file().path.read_bytes() == b"precious"


def test_a_file_of_another_model_is_not_gone_on_with(open_file):
    write_lines(open_file(), 3, finish=False)
    with pytest.raises(CheckpointError, match="was begun with another model"):
        open_file(model="other").check(resume=True)
    open_file().check(resume=True)
    open_file().state.write_bytes(b"damaged")
    with pytest.raises(CheckpointError, match="another model and another format"):
        open_file().check(resume=True)


def test_what_is_to_be_resumed_may_not_have_begun(open_file):
    open_file().check(resume=True)
    assert list(open_file().read_back()) == []


def test_a_file_that_cannot_be_written_is_an_error(tmp_path):
    file = LineFile(tmp_path / "nowhere" / "x" / "lines.csv", READABLE["csv"](OPTIONS), IDENTITY)
    (tmp_path / "nowhere").write_bytes(b"a file")
    with pytest.raises((CheckpointError, OutputError), match="cannot be written"), file:
        file.append("x")
