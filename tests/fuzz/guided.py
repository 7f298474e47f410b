"""Damage files of one kind where that reaches code that was not reached before, by atheris.

    pip install atheris                       # CPython up to 3.13 on Linux or macOS
    python tests/fuzz/guided.py KIND [-runs=100000] [other options of libFuzzer]

KIND is one of those that `run.py` prints. A failure ends it, and libFuzzer keeps the file and says
how to repeat it."""

import sys
import tempfile
from pathlib import Path

import atheris

sys.path.insert(
    0, str(Path(__file__).resolve().parents[1])
)  # the folder of all tests, as pytest has it
with atheris.instrument_imports(include=["squeezetune"]):
    from cases import Bench


def main():
    kind, options = sys.argv[1], sys.argv[2:]
    bench = Bench(0)

    def read(data):
        outcome = bench.run(kind, data)
        if outcome not in ("read", "refused"):
            raise RuntimeError(outcome)

    try:
        with tempfile.TemporaryDirectory() as corpus:
            for number, data in enumerate(bench.targets[kind].seeds):
                (Path(corpus) / str(number)).write_bytes(data)
            atheris.Setup([sys.argv[0], *options, "-timeout=60", corpus], read)
            atheris.Fuzz()
    finally:
        bench.close()


if __name__ == "__main__":
    main()
