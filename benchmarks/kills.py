"""Kill a training at random moments, resume it, and compare the bytes that it leaves with those of
a run left alone.

    python benchmarks/kills.py --data FOLDER [--rounds 20] [--kills 1] [--images 400] [--epochs 6]
        [--layers all]

Every round trains from an empty cache as a process group of its own, which `kill -9` ends at a
random moment; the moments are spread evenly over the length of the whole run, from its start to the
written report. `--resume` then goes on until the run ends (`--kills` ends it more often).
`network.safetensors` and `model.onnx` have to be those of the uninterrupted run, byte for byte.
Which engine and which arithmetic are fastest here is timed by the uninterrupted run alone and given
to the others, as the cache of a machine that has trained before would do. Linux and macOS only.
"""

import argparse
import hashlib
import shutil
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from figures import format_spread, print_machine, print_table
from ledger import Ledger, add_ledger_options, hash_program, open_ledger
from photos import PHOTO_SETS, add_photo_options, prepare_photos
from processes import read_report, run_and_kill, run_process, train_command

from squeezetune.settings import Settings
from squeezetune.system.checkpoint import find_checkpoint_folder

FILES = ("network.safetensors", "model.onnx")
CHOICES = "runtimes"  # the folder of a cache in which the choices that timings made are kept
SAMPLE = 400  # photos, where the options do not say


@dataclass(frozen=True)
class Target:
    """The training that is killed, and the folder where the choices of the uninterrupted run are
    kept.
    """

    photos: str
    root: Path
    settings: Settings
    choices: Path
    work: Path

    def write_command(self, output: Path) -> list[str]:
        """Write the command of a run that goes on with what it finds."""
        return [*train_command(self.photos, self.root, output, self.settings), "--resume"]

    def run_whole(self) -> dict[str, Any]:
        """Train without a stop; keep what it chose by timings."""
        with tempfile.TemporaryDirectory(dir=self.work) as folder:
            output, cache = Path(folder) / "model", self.open_cache(Path(folder))
            run = run_process(self.write_command(output), cache)
            shutil.copytree(cache / CHOICES, self.choices, dirs_exist_ok=True)
            ends = [(item["stage"], item["ended_s"]) for item in read_report(output)["timings"]]
            return {"seconds": run.seconds, "digests": hash_files(output), "ends": ends}

    def run_killed(self, moments: Sequence[float]) -> dict[str, Any]:
        """Train, kill it so many seconds after each start, and let it end; tell how far it was each
        time.
        """
        with tempfile.TemporaryDirectory(dir=self.work) as folder:
            output, cache = Path(folder) / "model", self.open_cache(Path(folder))
            command, found = self.write_command(output), []
            for moment in moments:
                if not run_and_kill(command, cache, moment):
                    break  # it was over before
                found.append(count_checkpoints(output))
            start = time.perf_counter()
            run_process(command, cache)
            return {
                "checkpoints": found,
                "rest_s": time.perf_counter() - start,
                "digests": hash_files(output),
                "leftovers": [
                    path.name for path in Path(folder).iterdir() if path.name.startswith(".")
                ],
            }

    def open_cache(self, folder: Path) -> Path:
        """Make a cache that holds nothing but the choices of an earlier run, if there was one."""
        (folder / "cache").mkdir()
        if self.choices.exists():
            shutil.copytree(self.choices, folder / "cache" / CHOICES)
        return folder / "cache"


def hash_files(output: Path) -> dict[str, str]:
    """Hash the files that have to be the same."""
    return {name: hashlib.sha256((output / name).read_bytes()).hexdigest() for name in FILES}


def count_checkpoints(output: Path) -> int:
    """Return the number of the newest checkpoint that a killed run left; 0 if it had not come so
    far.
    """
    found = find_checkpoint_folder(output).glob("checkpoint-*.json")
    return max((int(path.stem.rpartition("-")[2]) for path in found), default=0)


def draw_moments(rounds: int, kills: int, length_s: float, seed: int) -> list[list[float]]:
    """Draw the seconds after which each round is killed: the first ones spread evenly over the
    length of the run.
    """
    rng = np.random.default_rng(seed)
    firsts = length_s * (np.arange(rounds) + rng.random(rounds)) / rounds
    others = length_s * rng.random((rounds, kills - 1))
    return [
        [round(float(value), 2) for value in (first, *more)]
        for first, more in zip(firsts, others, strict=True)
    ]


def name_stage(moment: float, ends: Sequence[Sequence[Any]]) -> str:
    """Name the stage in which the uninterrupted run was so many seconds after its start."""
    return next((str(stage) for stage, end in ends if moment < end), "report")


def open_target(options: argparse.Namespace) -> Target:
    """Make the training ready that the options describe."""
    root = prepare_photos(options.photos, options)
    settings = PHOTO_SETS[options.photos].make_settings(
        layers=options.layers, epochs=options.epochs
    )
    return Target(options.photos, root, settings, options.work / "kills-choices", options.work)


def run_rounds(
    target: Target, ledger: Ledger, options: argparse.Namespace
) -> tuple[dict[str, Any], list[Any]]:
    """Run the uninterrupted training, the same again, and all rounds; return what the first and the
    others left.
    """
    base = {
        "program": hash_program(),
        "photos": options.photos,
        "images": options.images,
        "epochs": options.epochs,
        "layers": options.layers,
    }

    def recall(number: int, moments: list[float]) -> tuple[list[float], dict[str, Any]]:
        key = {**base, "run": number, "killed_after": moments}
        return moments, ledger.recall(key, lambda: target.run_killed(moments))

    whole = ledger.recall({**base, "run": "uninterrupted"}, target.run_whole)
    rounds = [recall(0, [])]
    length_s = min(whole["seconds"], rounds[0][1]["rest_s"])  # a kill is to come before the end
    drawn = draw_moments(options.rounds, options.kills, length_s, options.seed)
    return whole, rounds + [recall(number, moments) for number, moments in enumerate(drawn, 1)]


def print_rounds(
    whole: Mapping[str, Any], rounds: Sequence[tuple[Sequence[float], Mapping[str, Any]]]
) -> None:
    """Print every round, and how many of them left the right bytes."""
    rows = []
    for number, (moments, found) in enumerate(rounds):
        killed = [f"{at:.1f} s ({name_stage(at, whole['ends'])}, checkpoint {count or 'none'})"
                  for at, count in zip(moments, found["checkpoints"], strict=False)]  # fmt: skip
        same = [name for name in FILES if found["digests"][name] == whole["digests"][name]]
        rows.append((number, "; ".join(killed) or "never", f"{found['rest_s']:.1f}",
                     "the same" if len(same) == len(FILES) else "DIFFERENT",
                     ", ".join(found["leftovers"]) or "none"))  # fmt: skip
    print(f"The uninterrupted run took {whole['seconds']:.1f} s")
    print_table(["round", "killed after", "then took, s", "the files' bytes", "leftovers"], rows)
    killed_rounds = [
        (row, found) for row, (_, found) in zip(rows, rounds, strict=True) if found["checkpoints"]
    ]
    same_count = sum(row[3] == "the same" for row, _ in killed_rounds)
    print(
        f"{same_count} of {len(killed_rounds)} killed runs left the same bytes; "
        f"then took {format_spread([found['rest_s'] for _, found in killed_rounds] or [0.0])} s"
    )


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add_photo_options(parser)
    add_ledger_options(parser)
    parser.set_defaults(images=SAMPLE)
    parser.add_argument("--photos", choices=PHOTO_SETS, default="eth80")
    parser.add_argument(
        "--rounds", type=int, default=20, help="runs that are killed (default: %(default)s)"
    )
    parser.add_argument(
        "--kills", type=int, default=1, help="how often each is killed (default: %(default)s)"
    )
    parser.add_argument("--epochs", type=float, default=6.0, help="(default: %(default)s)")
    parser.add_argument("--layers", default="all", help="as of `train` (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="of the moments (default: %(default)s)")
    options = parser.parse_args(argv)
    print_machine()
    whole, rounds = run_rounds(open_target(options), open_ledger("kills", options), options)
    print_rounds(whole, rounds)


if __name__ == "__main__":
    main()
