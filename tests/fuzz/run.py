"""Read damaged images, archives, tables and models by the hundred thousand, and see that every one
is read or refused.

    python tests/fuzz/run.py [--cases 200000] [--seed 0] [--data FOLDER] [--only zip tar]
        [--processes 2] python tests/fuzz/run.py --repeat png:12345 [--seed 0] [--data FOLDER]

A failure is an exception that is not one of ours, more than 5 seconds of the processor, a process
that dies, more than 2 GB of memory, or anything written outside the file's own folder. FOLDER holds
archives of real photos, which are damaged too. Files that failed are kept in `--keep`; a case is
repeated by its kind, number and seed."""

import argparse
import json
import os
import queue
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

sys.path.insert(
    0, str(Path(__file__).resolve().parents[1])
)  # the folder of all tests, as pytest has it

from cases import Bench
from seeds import unpack_real_photos

CPU_LIMIT_S = 5
WALL_LIMIT_S = 120  # of a machine that does much else
MEMORY_LIMIT = 2 << 30
CHUNK = 4000
LOOK_EVERY_S = 0.2


@dataclass(frozen=True)
class Chunk:
    """Cases of one kind: from this number up to that one."""

    kind: str
    first: int
    end: int


@dataclass
class Result:
    """What came of all cases: how many of each kind were read, refused, or failed, and how."""

    counts: dict[str, Counter] = field(default_factory=dict)
    failures: list[tuple[str, int, str]] = field(default_factory=list)

    def add(self, kind, outcomes):
        self.counts.setdefault(kind, Counter()).update(outcomes)

    def fail(self, kind, number, reason):
        self.add(kind, ["failed"])
        self.failures.append((kind, number, reason))
        print(f"FAILED {kind}:{number}\n{reason}", flush=True)


def work(options):
    """Run the cases of one chunk and say before each which it is; runs in a process of its own."""
    bench, (kind, first, end) = Bench(options.seed, options.data), options.work
    try:
        for number in range(int(first), int(end)):
            say({"start": number})
            outcome = bench.run(kind, bench.make(kind, number))
            say({"end": number, "outcome": outcome})
    finally:
        bench.close()


def say(message):
    print(json.dumps(message), flush=True)


class Watchdog:
    """Runs a chunk in a process, and kills it where a case takes too long or too much memory."""

    def __init__(self, chunk, options, result):
        self.chunk, self.options, self.result = chunk, options, result
        self.current, self.started_cpu, self.started = chunk.first, 0.0, time.monotonic()

    def run(self):
        """Run all cases; after a failure that ends the process another one goes on behind it."""
        first = self.chunk.first
        while first < self.chunk.end:
            first = self.run_from(first)

    def run_from(self, first):
        words = [
            sys.executable,
            __file__,
            "--seed",
            str(self.options.seed),
            "--work",
            self.chunk.kind,
            str(first),
        ]
        words += [
            str(self.chunk.end),
            *(["--data", str(self.options.data)] if self.options.data else []),
        ]
        self.current = None
        # what a killed process leaves goes with the folder
        with tempfile.TemporaryDirectory() as folder, tempfile.TemporaryFile("w+") as complaints:
            surroundings = os.environ | {"TMPDIR": folder}
            process = subprocess.Popen(
                words, stdout=subprocess.PIPE, stderr=complaints, text=True, env=surroundings
            )
            watcher = threading.Thread(target=self.watch, args=(process,), daemon=True)
            watcher.start()
            self.reason = ""
            for line in process.stdout:
                self.hear(json.loads(line), process)
            process.wait()
            watcher.join()
            if self.current is None and not process.returncode:
                return self.chunk.end
            complaints.seek(0)
            said = complaints.read()[-1500:]
        if self.current is None:
            raise SystemExit(f"a worker could not start: {said}")
        self.result.fail(
            self.chunk.kind,
            self.current,
            self.reason or f"exit status {process.returncode}\n{said}",
        )
        return self.current + 1

    def hear(self, message, process):
        if "start" in message:
            self.started, self.started_cpu, self.current = (
                time.monotonic(),
                read_cpu(process.pid),
                message["start"],
            )
            return
        outcome, number = message["outcome"], self.current
        self.current = None
        if outcome in ("read", "refused"):
            self.result.add(self.chunk.kind, [outcome])
        else:
            self.result.fail(self.chunk.kind, number, outcome)

    def watch(self, process):
        """Look now and then at the process until it has ended."""
        while process.poll() is None:
            current, cpu_s = self.current, read_cpu(process.pid) - self.started_cpu
            if current is not None and not self.reason:
                if cpu_s > CPU_LIMIT_S or time.monotonic() - self.started > WALL_LIMIT_S:
                    self.reason = f"hangs: {cpu_s:.1f} s of the processor"
                elif read_memory(process.pid) > MEMORY_LIMIT:
                    self.reason = f"takes more than {MEMORY_LIMIT >> 20:,} MB"
                if self.reason and current == self.current:
                    process.kill()
                else:
                    self.reason = ""
            time.sleep(LOOK_EVERY_S)


def read_cpu(process):
    """Read how many seconds of the processor a process has used; 0 where the system does not
    tell.
    """
    try:
        fields = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
    except (OSError, IndexError):
        return 0.0


def read_memory(process):
    """Read how many bytes of memory a process holds; 0 where the system does not tell."""
    try:
        return int(Path(f"/proc/{process}/statm").read_text().split()[1]) * os.sysconf(
            "SC_PAGE_SIZE"
        )
    except (OSError, IndexError):
        return 0


def share_cases(targets, cases):
    """Share cases out among the kinds by their weights, in chunks."""
    total = sum(target.weight for target in targets.values())
    chunks = []
    for kind, target in targets.items():
        count = -(-cases * target.weight // total)
        chunks += [
            Chunk(kind, first, min(first + CHUNK, count)) for first in range(0, count, CHUNK)
        ]
    return sorted(chunks, key=lambda chunk: chunk.first)


def run_chunks(chunks, options):
    """Run chunks in several processes at once."""
    result, waiting = Result(), queue.SimpleQueue()
    for chunk in chunks:
        waiting.put(chunk)

    def take_chunks():
        while True:
            try:
                chunk = waiting.get_nowait()
            except queue.Empty:
                return
            Watchdog(chunk, options, result).run()

    threads = [threading.Thread(target=take_chunks) for _ in range(options.processes)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return result


def keep_failures(result, options):
    """Keep the files that failed, and say how each case is repeated."""
    bench = Bench(options.seed, options.data)
    try:
        for kind, number, _ in result.failures:
            options.keep.mkdir(parents=True, exist_ok=True)
            path = options.keep / f"{kind}-{options.seed}-{number}"
            path.write_bytes(bench.make(kind, number))
            print(
                f"kept: {path}; repeat: python tests/fuzz/run.py --repeat {kind}:{number} --seed "
                f"{options.seed}"
            )
    finally:
        bench.close()


def print_counts(result, seconds, seed):
    print("| kind | read | refused | failed |\n|---|---|---|---|")
    for kind, counts in result.counts.items():
        print(f"| {kind} | {counts['read']:,} | {counts['refused']:,} | {counts['failed']:,} |")
    total = sum(result.counts.values(), Counter())
    print(f"| all | {total['read']:,} | {total['refused']:,} | {total['failed']:,} |")
    print(f"{sum(total.values()):,} cases with seed {seed} in {seconds:.0f} s")


def repeat_case(options):
    """Run one case here, with all that it says."""
    kind, _, number = options.repeat.partition(":")
    bench = Bench(options.seed, options.data)
    try:
        outcome = bench.run(kind, bench.make(kind, int(number)))
        print(outcome)
        return 0 if outcome in ("read", "refused") else 1
    finally:
        bench.close()


def run_all(options):
    """Run all cases, and tell what came of them; the exit status is 1 where any failed."""
    bench = Bench(options.seed, options.data)
    bench.close()
    targets = {
        kind: target
        for kind, target in bench.targets.items()
        if kind in (options.only or bench.targets)
    }
    started = time.monotonic()
    result = run_chunks(share_cases(targets, options.cases), options)
    print_counts(result, time.monotonic() - started, options.seed)
    keep_failures(result, options)
    return 1 if result.failures else 0


def main(argv=None):
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--cases", type=int, default=200_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--data", type=Path, help="a folder with zip archives of real photos")
    parser.add_argument("--only", nargs="+", help="kinds of files (default: all)")
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument(
        "--keep", type=Path, default=Path(tempfile.gettempdir()) / "squeezetune-fuzz"
    )
    parser.add_argument(
        "--repeat", metavar="KIND:NUMBER", help="run one case and print what it says"
    )
    parser.add_argument("--work", nargs=3, help=argparse.SUPPRESS)
    options = parser.parse_args(argv)
    if options.work:
        work(options)
        return 0
    with tempfile.TemporaryDirectory() as photos:
        if options.data:
            unpack_real_photos(options.data, photos)
        options.data = photos
        return repeat_case(options) if options.repeat else run_all(options)


if __name__ == "__main__":
    sys.exit(main())
