"""Measure `predict` on many photos: speed against a plain loop with the same runtime, memory, `kill
-9` and `--resume`.

    python benchmarks/prediction.py --data FOLDER [--photos large] [--images 2000] [--rounds 3]
        [--kills 5]

speed   `squeezetune predict MODEL PHOTOS --output FILE.csv` in a process of its own, and a loop in
        another: Pillow opens a photo, a session of ONNX Runtime as it comes runs the model on it
        alone, and a row is written. Both take turns, with `model.onnx` and with its int8 export;
        seconds are of whole processes, the loading of the model included.
memory  the peak of the process on all photos, and on a quarter of them.
kills   the same command, killed with its group at random moments and gone on with until it ends:
        the file has to be that of the uninterrupted run, byte for byte.

`--photos large` takes generated JPEG photos of 12 megapixels, 400 unless `--images` says otherwise:
most photos of phones are like these, and there the time goes into decoding. The model is trained on
a sample of the same photos first. Linux and macOS only.
"""

import argparse
import csv
import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from figures import format_spread, print_machine, print_table
from large_photos import write_large_photos
from photos import BACKBONE, PHOTO_SETS, add_photo_options, draw_photos, prepare_photos
from processes import run_and_kill, run_process

from squeezetune.data.sources.folder import list_files
from squeezetune.exporting.exports import export
from squeezetune.model.classifier import load
from squeezetune.settings import Settings
from squeezetune.system.telemetry import import_onnxruntime
from squeezetune.training import train

SAMPLE = 2000  # photos that the model is trained on
LARGE, LARGE_COUNT = "large", 400


def find_photos(options: argparse.Namespace) -> Path:
    """Return the folder of the photos, made ready."""
    if options.photos != LARGE:
        return prepare_photos(options.photos, options)
    count = options.images or LARGE_COUNT
    return write_large_photos(options.work / f"{LARGE}-{count}", count)


def train_model(name: str, root: Path, work: Path) -> Path:
    """Train on a sample of the photos, once; return the model's folder."""
    folder = work / f"prediction-{name}-model"
    if not folder.exists():
        sample = draw_photos(root, work / f"{name}-prediction-sample", SAMPLE)
        known = PHOTO_SETS.get(name)
        settings, pattern = (
            (known.make_settings(), known.class_pattern)
            if known
            else (Settings(backbone=BACKBONE), "")
        )
        train(sample, folder, settings, class_pattern=pattern)
    return folder


def export_int8(model: Path) -> Path:
    """Export the model with convolutions in int8, once; return the file."""
    folder = model.with_name(f"{model.name}-export")
    if not folder.exists():
        export(model, ["onnx-int8"], folder)
    return folder / "model-int8.onnx"


def run_loop(model: Path, root: Path, output: Path) -> None:
    """Predict as a plain loop does: one photo after the other, with a session of ONNX Runtime as it
    comes.
    """
    from PIL import Image

    session = import_onnxruntime().InferenceSession(
        load(model).read_model(), providers=["CPUExecutionProvider"]
    )
    with output.open("w", newline="") as file:
        writer = csv.writer(file)
        for name in list_files(root).files:
            pixels = np.asarray(Image.open(root / name).convert("RGB"))
            row = session.run(None, {"image": pixels[None]})[0][0]
            writer.writerow([name, row.argmax(), *row])


def write_command(model: Path, root: Path, output: Path) -> list[str]:
    """Write the command whose speed is measured; it begins anew, or goes on with what is there."""
    return [
        "-m",
        "squeezetune",
        "predict",
        str(model),
        str(root),
        "--output",
        str(output),
        "--resume",
        "--quiet",
    ]


def compare_speed(models: Sequence[Path], root: Path, work: Path, rounds: int) -> float:
    """Let loop and command take turns with each model; return the median seconds of ours with the
    first.
    """
    count = len(list_files(root).files)
    seconds: dict[tuple[str, str], list[float]] = {}
    for number in range(rounds):
        for model in models:
            ours, loops = (
                work / f"{number}-{kind}-{model.name}.csv" for kind in ("predict", "loop")
            )
            loop = [__file__, "--data", ".", "--loop", str(model), str(root), str(loops)]
            for kind, command in (("loop", loop), ("predict", write_command(model, root, ours))):
                done = run_process(command, work / "cache")
                seconds.setdefault((kind, model.name), []).append(done.seconds)
    rows = []
    for (kind, name), taken in seconds.items():
        ratios = [[slow / fast for fast, slow in zip(taken, seconds["loop", other], strict=True)]
                  for other in (name, models[0].name)]  # fmt: skip
        rows.append((kind, name, f"{count:,}", format_spread([count / each for each in taken]),
                     *(format_spread(each, 2) for each in ratios)))  # fmt: skip
    print_table(
        ["", "model", "photos", "photos/s", "ratio, same file", f"ratio, {models[0].name}"], rows
    )
    return float(np.median(seconds["predict", models[0].name]))


def compare_memory(model: Path, root: Path, work: Path) -> None:
    """Measure the peak memory on all photos and on a quarter of them."""
    names, rows = list_files(root).files, []
    few = draw_photos(root, work / "quarter", len(names) // 4)
    for photos in (few, root):
        done = run_process(
            write_command(model, photos, work / f"memory-{photos.name}.csv"), work / "cache"
        )
        rows.append((f"{len(list_files(photos).files):,}", f"{done.peak_mb:,.0f}"))
    print_table(["photos", "peak memory, MB"], rows)


def compare_kills(model: Path, root: Path, work: Path, kills: int, length_s: float) -> None:
    """Kill the command at random moments of its length, go on until it ends, and compare the
    bytes.
    """
    whole, output, rng = (
        (work / f"0-predict-{model.name}.csv").read_bytes(),
        work / "killed.csv",
        np.random.default_rng(0),
    )
    seen = []
    for moment in (
        rng.uniform(0.3, 1, kills) * length_s / kills
    ):  # so that most of them come before the end
        run_and_kill(write_command(model, root, output), work / "cache", float(moment))
        seen.append(output.read_bytes().count(b"\n") if output.exists() else 0)
        if seen[-1] and not (work / ".killed.csv.unfinished").exists():
            break  # it was over before
    if (work / ".killed.csv.unfinished").exists() or not output.exists():
        run_process(write_command(model, root, output), work / "cache")
    is_same = output.read_bytes() == whole
    print(
        f"killed {len(seen)} times, with {seen} lines there: the file is "
        f"{'the same' if is_same else 'DIFFERENT'}"
    )


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add_photo_options(parser)
    parser.add_argument("--photos", choices=[*PHOTO_SETS, LARGE], default="cifar10")
    parser.add_argument(
        "--rounds", type=int, default=3, help="turns of the speed (default: %(default)s)"
    )
    parser.add_argument("--kills", type=int, default=5, help="(default: %(default)s)")
    parser.add_argument("--loop", nargs=3, type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args(argv)
    if options.loop:
        run_loop(*options.loop)
        return
    print_machine()
    root = find_photos(options)
    model = train_model(options.photos, root, options.work)
    with tempfile.TemporaryDirectory(dir=options.work) as folder:
        work = Path(folder)
        length_s = compare_speed([model, export_int8(model)], root, work, options.rounds)
        compare_memory(model, root, work)
        compare_kills(model, root, work, options.kills, length_s)


if __name__ == "__main__":
    main()
