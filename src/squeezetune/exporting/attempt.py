"""One format, attempted: written, checked, and measured by its own runtime; or why it cannot be
had, in words.
"""

import hashlib
import re
import shutil
from dataclasses import dataclass, replace
from importlib.util import find_spec
from pathlib import Path

import numpy as np

from squeezetune.errors import INSTALL_TORCH, ExportError, SqueezeTuneError
from squeezetune.events import EXPORT, Listener, Notice, tell_stage
from squeezetune.exporting.export_index import Export, Failure
from squeezetune.exporting.export_inputs import ExportInputs
from squeezetune.exporting.formats import Format, find_format
from squeezetune.exporting.runtimes import CALL_SIZES, benchmark_export
from squeezetune.exporting.scoring import Score, TestSet, score_export
from squeezetune.system.machine import find_version

REASON_LENGTH = 300


@dataclass(frozen=True)
class ExportChecks:
    """What exports are measured by: the exam, some of its photos as an array in a file, and what
    may be lost.
    """

    exam: TestSet
    sample: Path
    max_loss: float | None


def open_bench(exam: TestSet, scratch: Path, max_loss: float | None) -> ExportChecks:
    """Keep some photos of one size, the commonest of the first ones, for the process that is
    timed.
    """
    images = next(exam.read())
    shapes = [image.shape for image in images]
    common = max(shapes, key=shapes.count)
    alike = [image for image in images if image.shape == common]
    path = scratch / "images.npy"
    np.save(path, np.stack([alike[at % len(alike)] for at in range(max(CALL_SIZES))]))
    return ExportChecks(exam, path, max_loss)


def attempt_export(
    name: str, order: ExportInputs, folder: Path, bench: ExportChecks | None, listen: Listener
) -> Export | Failure:
    """Write one export, check it, and measure it; where that fails nothing of it is left.

    A failure of its writer or its runtime is one of this format alone. What concerns all of them is
    raised: photos that are gone, a disk that is full, more lost than is allowed.

    Raises:
        ExportError: it loses more than it may.
    """
    found = find_format(name)
    total = len(bench.exam.positions) if bench else 0
    with tell_stage(EXPORT + name, listen, total, "photos"):
        try:
            item: Export | Failure = make_export(name, order, folder, bench, listen)
        except ExportError as error:
            item = Failure(name, error.message, error.hint)
        except (SqueezeTuneError, OSError):
            raise
        except Exception as error:  # runtimes raise whatever they like
            item = Failure(
                name, f"{found.path} does not work here: {shorten_reason(error)}", advise(found)
            )
        if isinstance(item, Failure):
            remove_files(folder / found.root)
        elif item.score and bench:
            check_loss(
                name,
                item.score,
                bench.max_loss,
                needs_torch=can_tune(found, order) and not has_torch(),
            )
    return item


def make_export(
    name: str, order: ExportInputs, folder: Path, bench: ExportChecks | None, listen: Listener
) -> Export:
    """Write one export, check it, and measure it where its runtime is here."""
    found = find_format(name)
    path = folder / found.path
    path.parent.mkdir(parents=True, exist_ok=True)
    found.write(order, path)
    found.check(path)
    score = trial = None
    unmeasured = found.explain_unmeasured() if bench else ""
    if bench and not unmeasured:
        score = measure_export(name, order, path, bench, listen)
        trial = benchmark_export(found.runtime, path, bench.sample)
        if found.state:
            found.state(order, path, score)
    return replace(describe_files(name, folder), score=score, trial=trial, unmeasured=unmeasured)


def describe_files(name: str, folder: Path) -> Export:
    """Describe what was written: every file with its checksum, and what runs it."""
    found = find_format(name)
    root = folder / found.root
    files = sorted(item for item in root.rglob("*") if item.is_file()) if root.is_dir() else [root]
    hashes = {item.relative_to(folder).as_posix(): hash_bytes(item.read_bytes()) for item in files}
    return Export(
        name, found.path, sum(item.stat().st_size for item in files), hashes, needs=found.needs
    )


def measure_export(
    name: str, order: ExportInputs, path: Path, bench: ExportChecks, listen: Listener
) -> Score:
    """Measure an export; where it loses more than it may, write it anew as it loses less, if that
    can be done.
    """
    found = find_format(name)
    score = score_export(found.open(path), bench.exam, listen, EXPORT + name)
    if (
        found.tune
        and can_tune(found, order)
        and has_torch()
        and not is_allowed(score, bench.max_loss)
    ):
        listen(
            Notice(f"{name} loses {find_loss(score):.2f} points as it is, so its codes are trained")
        )
        found.tune(order, path)
        found.check(path)
        score = score_export(found.open(path), bench.exam, listen, EXPORT + name)
    return score


def can_tune(found: Format, order: ExportInputs) -> bool:
    """Say whether the file can be written anew as it loses less."""
    return found.tune is not None and not order.network.is_convolved


def has_torch() -> bool:
    """Say whether torch is installed, which that needs."""
    return find_spec("torch") is not None


def find_loss(score: Score) -> float:
    """Find the points that an export loses; of a model without test photos, by where it
    disagrees.
    """
    return 100 * (-score.change if score.is_honest else 1 - score.agreement)


def is_allowed(score: Score, max_loss: float | None) -> bool:
    """Say whether an export loses no more than it may."""
    return max_loss is None or find_loss(score) <= max_loss


def check_loss(name: str, score: Score, max_loss: float | None, needs_torch: bool = False) -> None:
    """Refuse an export that loses more points than it may; `needs_torch` says that more could be
    done with that.

    Raises:
        ExportError: it does.
    """
    if is_allowed(score, max_loss):
        return
    low, high = (100 * -end for end in reversed(score.change_interval))
    advice = (
        f"With torch its codes are trained to lose less. {INSTALL_TORCH}. " if needs_torch else ""
    )
    raise ExportError(
        f"{name} loses {find_loss(score):.2f} points on {score.images:,} test photos (95 % "
        f"interval {low:.2f} to {high:.2f}); allowed are {max_loss:g}",
        f"{advice}Allow more with --max-loss, or export to another format. Nothing was written.",
    )


def shorten_reason(error: Exception) -> str:
    """Take the first line of what a runtime says, or its kind if it says nothing."""
    lines = str(error).strip().splitlines()
    return lines[0][:REASON_LENGTH] if lines else type(error).__name__


def advise(found: Format) -> str:
    """Say what may help: a newer runtime, where the one that is here is older than the format
    needs.
    """
    package, _, oldest = found.needs.partition(" >= ")
    installed = find_version(package)
    if oldest and installed and read_numbers(installed) < read_numbers(oldest):
        return (
            f"It needs {found.needs}, and {installed} is installed: pip install --upgrade "
            f"'{package}>={oldest}'"
        )
    return f"Update what runs it ({found.needs}), or export to another format."


def read_numbers(version: str) -> tuple[int, ...]:
    """Read the numbers of a version, for comparing it with others."""
    return tuple(int(part) for part in re.findall(r"\d+", version)[:3])


def remove_files(root: Path) -> None:
    """Remove what is there of an export: a file or a folder."""
    if root.is_dir():
        shutil.rmtree(root)
    else:
        root.unlink(missing_ok=True)


def hash_bytes(payload: bytes) -> str:
    """Return the SHA-256."""
    return hashlib.sha256(payload).hexdigest()
