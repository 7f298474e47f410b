"""`squeezetune serve` under load: speed, hostile requests, and models that change.

    python benchmarks/serving.py MODEL PHOTOS [--export FILE.onnx] [--seconds 5] [--rounds 3]
        [--clients 1 8 64] python benchmarks/serving.py MODEL PHOTOS --hostile 10000
    python benchmarks/serving.py MODEL PHOTOS --swaps 100

PHOTOS is a folder of JPEG files. Speed: images a second and the latency's percentiles with so many
clients, against a server in which every request is an inference (`plain_server.py`), in turns in
one run, and with `--export` the same of an exported file, such as `model-int8.onnx`; clients are a
process of their own (`load.py`), on the same computer. Hostile: see `hostile.py`. Swaps: two models
take turns in the folder that is served, eight clients ask all the time, and every answer but 200 is
counted. Linux only.
"""

import argparse
import json
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from figures import format_spread, print_machine, print_table
from hostile import attack

from squeezetune.model.artifact import MODEL, read_manifest, stage_artifact
from squeezetune.system.monitor import measure_held_memory

HERE = Path(__file__).parent
PLAIN, SERVE = "one request, one inference", "squeezetune serve"
Contender = tuple[str, str]  # which server, and the name of the model's file
PHOTO_COUNT = 64
SWAP_CLIENTS = 8


@dataclass(frozen=True)
class Server:
    """A running server: its port and its process."""

    port: int
    process: int

    def read_metric(self, name: str) -> float:
        """Return one figure of its metrics."""
        with urllib.request.urlopen(f"http://127.0.0.1:{self.port}/metrics", timeout=20) as answer:
            lines = answer.read().decode().splitlines()
        return float(next((line.split()[-1] for line in lines if line.startswith(name)), "0"))

    def measure_memory(self) -> float:
        """Measure the megabytes that it holds."""
        return (measure_held_memory(Path(f"/proc/{self.process}/status")) or 0) / 1e6


@contextmanager
def start_server(command: Sequence[str], log: Path | None = None) -> Iterator[Server]:
    """Start a server that prints its address, and end it."""
    with (log or Path("/dev/null")).open("w") as said:
        process = subprocess.Popen(
            [sys.executable, *command], stdout=subprocess.PIPE, stderr=said, text=True
        )
        try:
            assert process.stdout
            words = process.stdout.readline()
            yield Server(int(words.split(";")[0].rpartition(":")[2]), process.pid)
        finally:
            process.terminate()
            process.wait(60)


def write_command(folder: Path, *options: str) -> list[str]:
    return ["-m", "squeezetune", "serve", str(folder), "--port", "0", *options]


def start_load(
    port: int, clients: int, seconds: float, photos: Sequence[Path]
) -> "subprocess.Popen[str]":
    command = [
        sys.executable,
        str(HERE / "load.py"),
        str(port),
        str(clients),
        str(seconds),
        *map(str, photos),
    ]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)


def run_load(port: int, clients: int, seconds: float, photos: Sequence[Path]) -> dict[str, Any]:
    """Let clients ask, and return what they saw."""
    with start_load(port, clients, seconds, photos) as process:
        found: dict[str, Any] = json.loads(process.communicate(timeout=seconds + 90)[0])
    return found


def compare_speed(folder: Path, photos: Sequence[Path], options: argparse.Namespace) -> None:
    """Measure both servers in turns and print a table."""
    found: dict[tuple[Contender, int], list[dict[str, Any]]] = {}
    with ExitStack() as running:
        servers = {}
        for model in [folder, *options.export]:
            plain = [str(HERE / "plain_server.py"), str(model)]
            for kind, command in ((PLAIN, plain), (SERVE, write_command(model))):
                servers[kind, model.name] = running.enter_context(start_server(command))
        for server in servers.values():
            run_load(server.port, 8, 1, photos)
        for number in range(options.rounds):
            for clients in options.clients:
                turns = list(servers) if number % 2 else list(servers)[::-1]
                for name in turns:
                    run = run_load(servers[name].port, clients, options.seconds, photos)
                    found.setdefault((name, clients), []).append(run)
        batches = [
            server.read_metric("squeezetune_batch_images_sum")
            / server.read_metric("squeezetune_batch_images_count")
            for (kind, _), server in servers.items()
            if kind == SERVE
        ]
    rows = [
        describe_runs(name, clients, found, folder.name)
        for clients in options.clients
        for name in servers
    ]
    titles = ["clients", "server", "model", "images/s", "ratio, same file", f"ratio, {folder.name}"]
    print_table([*titles, "p50 ms", "p95 ms", "p99 ms", "answers"], rows)
    print(
        "Images that were classified together, mean: "
        f"{', '.join(f'{each:.1f}' for each in batches)}"
    )


def describe_runs(
    name: Contender,
    clients: int,
    found: dict[tuple[Contender, int], list[dict[str, Any]]],
    first: str,
) -> list[str]:
    """Write the row of one server with so many clients."""
    runs = found[name, clients]
    speeds, same, plain = (
        [len(run["milliseconds"]) / run["seconds"] for run in found[which, clients]]
        for which in (name, (PLAIN, name[1]), (PLAIN, first))
    )
    ratios = [
        [ours / theirs for ours, theirs in zip(speeds, other, strict=True)]
        for other in (same, plain)
    ]
    waits = [value for run in runs for value in run["milliseconds"]]
    statuses = sum((Counter(run["statuses"]) for run in runs), Counter())
    return [
        str(clients),
        *name,
        format_spread(speeds, 0),
        *(f"{statistics.median(each):.2f}" for each in ratios),
        *(f"{value:.1f}" for value in np.percentile(waits, [50, 95, 99])),
        ", ".join(f"{status}: {count:,}" for status, count in sorted(statuses.items())),
    ]


def swap_models(folder: Path, photos: Sequence[Path], swaps: int) -> None:
    """Let two models take turns under load, and count what was answered."""
    seconds_at_most = (
        10 + 2.5 * swaps
    )  # the clients go on so long; a change takes one to two seconds
    with tempfile.TemporaryDirectory() as work:
        served = Path(work) / "model"
        copy_model(folder, served, "model 0")
        with start_server(write_command(served)) as server:
            load = start_load(server.port, SWAP_CLIENTS, seconds_at_most, photos)
            start, loaded = time.perf_counter(), 'squeezetune_model_changes_total{outcome="loaded"}'
            for number in range(1, swaps + 1):
                copy_model(folder, served, f"model {number % 2}")
                while server.read_metric(loaded) < number and load.poll() is None:
                    time.sleep(0.05)
            seconds = time.perf_counter() - start
            done, refused = (
                server.read_metric(loaded),
                server.read_metric('squeezetune_model_changes_total{outcome="r'),
            )
            memory = server.measure_memory()
            statuses = json.loads(load.communicate(timeout=seconds_at_most + 90)[0])["statuses"]
    print(
        f"{done:.0f} swaps in {seconds:.0f} s, {refused:.0f} refused; {memory:.0f} MB held; "
        "answers "
        f"to {SWAP_CLIENTS} clients: {statuses}"
    )


def copy_model(source: Path, folder: Path, words: str) -> None:
    """Put a copy of a model in a folder's place, with other bytes and the same answers."""
    manifest = read_manifest(source)
    with stage_artifact(folder) as staging:
        for name in manifest.files:
            data = (source / name).read_bytes()
            if name == MODEL:
                model = onnx.load_model_from_string(data)
                model.doc_string = words
                data = model.SerializeToString()
            staging.write(name, data)
        staging.finish(manifest)


def run_hostile(folder: Path, photos: Sequence[Path], count: int) -> None:
    """Attack a server; print what was answered, its memory, and the files that are left."""
    work = Path(tempfile.mkdtemp())
    limits = ["--max-time", "3", "--max-idle", "2"]
    with start_server(write_command(folder, *limits), work / "log") as server:
        run_load(server.port, 8, 3, photos)
        before, files = server.measure_memory(), list_written(server.process)
        start = time.perf_counter()
        found = attack(server.port, count, photos, lambda: int(server.measure_memory() * 1e6))
        seconds, peak = time.perf_counter() - start, found.peak_memory / 1e6
        time.sleep(5)
        after, left = server.measure_memory(), list_written(server.process)
        alive = run_load(server.port, 8, 3, photos)["statuses"]
    kinds = [
        (
            kind,
            f"{sum(counts.values()):,}",
            ", ".join(f"{what}: {many:,}" for what, many in counts.most_common()),
        )
        for kind, counts in sorted(found.answers.items())
    ]
    print_table(["requests", "n", "answers"], kinds)
    print(
        f"{count:,} hostile requests in {seconds:.0f} s; memory {before:.0f} MB before, "
        f"{peak:.0f} MB at most, "
        f"{after:.0f} MB after; open files beside sockets {len(files)} before, {len(left)} after; "
        f"then 8 clients again: {alive}"
    )
    lines = [json.loads(line) for line in (work / "log").read_text().splitlines()]
    traces = Counter(line["trace"].splitlines()[-1] for line in lines if "trace" in line)
    print(f"Exceptions in the server's log: {dict(traces) or 'none'}")
    shutil.rmtree(work)


def list_written(process: int) -> list[str]:
    """List the files that a process has open, those without a name too."""
    found = [
        str(path.readlink()) for path in Path(f"/proc/{process}/fd").iterdir() if path.is_symlink()
    ]
    return [name for name in found if name.startswith("/") and not name.startswith("/dev")]


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("model", type=Path)
    parser.add_argument("photos", type=Path)
    parser.add_argument(
        "--export", type=Path, nargs="+", default=[], help="exported files to serve as well"
    )
    parser.add_argument(
        "--seconds", type=float, default=5.0, help="of each measurement (default: %(default)s)"
    )
    parser.add_argument("--rounds", type=int, default=3, help="(default: %(default)s)")
    parser.add_argument(
        "--clients", type=int, nargs="+", default=[1, 8, 64], help="(default: %(default)s)"
    )
    parser.add_argument(
        "--hostile", type=int, default=0, help="so many hostile requests, instead of speed"
    )
    parser.add_argument(
        "--swaps", type=int, default=0, help="so many changes of the model, instead of speed"
    )
    options = parser.parse_args(argv)
    print_machine()
    found = sorted(options.photos.rglob("*.jpg"))
    photos = found[:: max(1, len(found) // PHOTO_COUNT)][:PHOTO_COUNT]
    if options.hostile:
        run_hostile(options.model, photos, options.hostile)
    elif options.swaps:
        swap_models(options.model, photos, options.swaps)
    else:
        compare_speed(options.model, photos, options)


if __name__ == "__main__":
    main()
