import json
import multiprocessing
import os
import signal
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from squeezetune.errors import OutputError
from squeezetune.system.output_lock import follow_link, hold_output, name_lock

HOLD = """
import sys, time
from pathlib import Path
from squeezetune.system.output_lock import hold_output
with hold_output(Path(sys.argv[1])):
    print("held", flush=True)
    time.sleep(60)
"""


def test_a_lock_is_held_says_by_whom_and_is_gone_afterwards(tmp_path):
    target = tmp_path / "new" / "model"
    with hold_output(target):
        assert json.loads(name_lock(target).read_bytes())["process"] == os.getpid()
        with (
            pytest.raises(OutputError, match=f"process {os.getpid()} on .* since 20") as caught,
            hold_output(target),
        ):
            pytest.fail("held twice")
        assert "--output" in caught.value.hint
    assert not list(target.parent.iterdir())
    with hold_output(target):
        pass


def test_a_lock_is_free_after_an_error_and_after_a_kill(tmp_path):
    target = tmp_path / "model"
    with pytest.raises(ValueError, match="oh"), hold_output(target):
        raise ValueError("oh")
    with subprocess.Popen([sys.executable, "-c", HOLD, target], stdout=subprocess.PIPE) as holder:
        assert holder.stdout.readline() == b"held\n"
        with pytest.raises(OutputError, match=f"process {holder.pid} "), hold_output(target):
            pytest.fail("held by two")
        holder.send_signal(signal.SIGKILL)
    with hold_output(target):
        assert json.loads(name_lock(target).read_bytes())["process"] == os.getpid()


def count_up(path: Path, rounds: int) -> int:
    """Add one to the number in a file again and again; returns how often the lock was had."""
    done = 0
    while done < rounds:
        try:
            with hold_output(path):
                path.write_text(str(int(path.read_text()) + 1))
                done += 1
        except OutputError:
            continue
    return done


def test_many_processes_never_hold_it_at_once(tmp_path):
    path = tmp_path / "number"
    path.write_text("0")
    with multiprocessing.get_context("spawn").Pool(3) as pool:
        assert sum(pool.starmap(count_up, [(path, 60)] * 3)) == 180
    assert path.read_text() == "180"


def test_threads_of_one_process_exclude_each_other(tmp_path):
    path = tmp_path / "number"
    path.write_text("0")
    with ThreadPoolExecutor(4) as pool:
        assert sum(pool.map(count_up, [path] * 4, [50] * 4)) == 200
    assert path.read_text() == "200"


@pytest.mark.parametrize("name", ["m" * 300, "鼠" * 80])
def test_a_name_that_is_too_long_is_refused(tmp_path, name):
    with (
        pytest.raises(OutputError, match=r"has \d+ bytes; it may have 200"),
        hold_output(tmp_path / name),
    ):
        pytest.fail("held")


def test_where_nothing_can_be_written_is_an_error(tmp_path):
    (tmp_path / "file").write_text("no folder")
    with (
        pytest.raises(OutputError, match="cannot be written: "),
        hold_output(tmp_path / "file" / "model"),
    ):
        pytest.fail("held")


def test_a_link_is_followed_and_a_folder_below_one_is_as_it_is(tmp_path):
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to("real")
    assert follow_link(tmp_path / "link") == tmp_path / "real"
    assert follow_link(tmp_path / "link" / "model") == tmp_path / "link" / "model"
    (tmp_path / "nowhere").symlink_to("not yet")
    assert follow_link(tmp_path / "nowhere") == tmp_path / "not yet"
