"""A slice of the fuzzing that `tests/fuzz/run.py` does: damaged files of every kind are read or
refused.
"""

import importlib.util
import os
import sys
from contextlib import suppress
from types import SimpleNamespace

import pytest
import run
from cases import Bench
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from mutations import MUTATIONS
from readers import read_path

from squeezetune.data.sources.table import parse_columns
from squeezetune.errors import SqueezeTuneError

pytestmark = pytest.mark.filterwarnings("ignore")  # Pillow and numpy warn of much
CASES = 3000
KINDS = (
    "jpeg",
    "png",
    "webp",
    "bmp",
    "gif",
    "tiff",
    "avif",
    "jp2",
    "pnm",
    "tga",
    "heic",
    "zip",
    "tar",
    "shard",
    "shards",
    "csv",
    "tsv",
    "parquet",
    "npz",
    "npy",
    "labels",
    "tgz",
    "cifar-binary",
    "cifar-python",
    "safetensors",
    "manifest",
    "report",
    "state",
    "checkpoint",
)


@pytest.fixture(scope="module")
def bench():
    bench = Bench(seed=0)
    yield bench
    bench.close()


def test_every_kind_is_tried(bench):
    missing = ({"parquet"} if not importlib.util.find_spec("pyarrow") else set()) | (
        {"tgz"} if not hasattr(os, "O_TMPFILE") else set()
    )
    missing |= {"heic"} if not importlib.util.find_spec("pi_heif") else set()
    assert set(bench.targets) == set(KINDS) - missing


@pytest.mark.parametrize("kind", KINDS)
def test_damaged_files_are_read_or_refused(kind, bench, capfd):
    if kind not in bench.targets:
        pytest.skip("needs pyarrow or pi-heif, extras, or files without names")
    weights = sum(target.weight for target in bench.targets.values())
    for number in range(CASES * bench.targets[kind].weight // weights):
        outcome = bench.run(kind, bench.make(kind, number))
        assert outcome in ("read", "refused"), f"{kind}:{number}\n{outcome}"


@pytest.mark.parametrize("kind", KINDS)
def test_whole_files_are_read(kind, bench):
    for data in bench.targets[kind].seeds if kind in bench.targets else ():
        if kind == "safetensors":  # one of them is of a few layers only
            data = bench.targets[kind].seeds[-1]
        assert bench.run(kind, data) == "read"


def test_a_case_is_always_the_same(bench):
    again = Bench(seed=0)
    try:
        assert [again.make("png", number) for number in range(20)] == [
            bench.make("png", number) for number in range(20)
        ]
    finally:
        again.close()
    assert len({bench.make("png", number) for number in range(200)}) > 150
    assert len(MUTATIONS) > 10


CELLS = st.text(st.characters(), max_size=8) | st.sampled_from(
    ["", "path", "class", "split", "train", "cat/1.jpg", "dog/0.jpg", '"', "..", "0", "a" * 300]
)


@settings(
    max_examples=150,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
    derandomize=True,
)
@given(
    rows=st.lists(st.lists(CELLS, max_size=5), max_size=8),
    sign=st.sampled_from(",;\t|"),
    end=st.sampled_from("\n\r"),
)
def test_any_text_as_a_table(rows, sign, end, tmp_path):
    path = tmp_path / "table.csv"
    path.write_text(
        end.join(sign.join(row) for row in rows), encoding="utf-8", errors="surrogatepass"
    )
    with suppress(SqueezeTuneError):
        read_path(path)


@settings(max_examples=100, deadline=None, derandomize=True)
@given(text=st.text(st.sampled_from("pathlbes=, \0é1")))
def test_any_text_as_columns(text):
    with suppress(SqueezeTuneError):
        assert isinstance(parse_columns(text), dict)


# ---- what would be a failure is seen


def make_failing(bench, read):
    target = bench.targets["png"]
    bench.targets["png"] = SimpleNamespace(
        seeds=target.seeds, read=read, repair=None, mutate=target.mutate
    )


@pytest.fixture
def own_bench():
    bench = Bench(seed=0)
    yield bench
    bench.close()


def test_a_foreign_exception_is_a_failure(own_bench):
    make_failing(own_bench, lambda data, folder: 1 / 0)
    assert "ZeroDivisionError" in own_bench.run("png", b"x")


def test_a_file_outside_of_the_folder_is_a_failure(own_bench, tmp_path):
    make_failing(own_bench, lambda data, folder: (tmp_path / "a").write_bytes(data))
    assert "outside" in own_bench.run("png", b"x")
    make_failing(own_bench, lambda data, folder: (folder.parent.parent / "a").mkdir())
    assert "outside" in own_bench.run("png", b"x")
    make_failing(own_bench, lambda data, folder: (folder / "a").write_bytes(data))
    assert own_bench.run("png", b"x") == "read"


def test_a_program_that_is_started_is_a_failure(own_bench):
    make_failing(own_bench, lambda data, folder: os.system("true"))
    assert "os.system" in own_bench.run("png", b"x")


@pytest.mark.skipif(
    not sys.platform.startswith("linux"), reason="the processor's time is read from /proc"
)
@pytest.mark.parametrize(
    ("line", "reason"), [("os.abort()", "exit status"), ("while True: pass", "hangs")]
)
def test_a_process_that_dies_or_hangs_is_a_failure(line, reason, tmp_path, monkeypatch, capsys):
    program = tmp_path / "worker.py"
    program.write_text(f"import os\nprint('{{\"start\": 7}}', flush=True)\n{line}\n")
    monkeypatch.setattr(run, "__file__", str(program))
    monkeypatch.setattr(run, "CPU_LIMIT_S", 0.2)
    monkeypatch.setattr(run, "LOOK_EVERY_S", 0.02)
    result = run.Result()
    watchdog = run.Watchdog(run.Chunk("png", 7, 8), SimpleNamespace(seed=0, data=None), result)
    watchdog.run()
    [(kind, number, told)] = result.failures
    assert (kind, number) == ("png", 7)
    assert reason in told


def test_all_cases_are_shared_out(bench):
    chunks = run.share_cases(bench.targets, 50_000)
    assert sum(chunk.end - chunk.first for chunk in chunks) >= 50_000
    assert {chunk.kind for chunk in chunks} == set(bench.targets)
    assert max(chunk.end - chunk.first for chunk in chunks) <= run.CHUNK


def test_the_program_counts_and_keeps(tmp_path, capsys):
    assert (
        run.main(["--cases", "20", "--only", "gif", "csv", "--keep", str(tmp_path / "kept")]) == 0
    )
    said = capsys.readouterr().out
    assert "| all |" in said
    assert "20 cases with seed 0" in said or "21 cases" in said
    assert not (tmp_path / "kept").exists()
    run.main(["--repeat", "gif:3"])
    assert capsys.readouterr().out.strip() in ("read", "refused")
