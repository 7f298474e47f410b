"""Fixtures that more than one test module uses: small photos, as bytes and in folders."""

import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from io import BytesIO
from pathlib import Path
from typing import Any
from zipfile import ZipFile

import numpy as np
import pytest
from example_weights import draw_weights
from PIL import Image, ImageDraw
from threadpoolctl import threadpool_limits
from web_site import WebSite, open_site

from squeezetune.data.index import ImageIndex, index_photos
from squeezetune.data.sources import image_formats as decoders
from squeezetune.data.split import Split, split_index
from squeezetune.errors import ExportError
from squeezetune.events import Listener, ignore_event
from squeezetune.exporting import web as runtime
from squeezetune.network.weights import Weights, load_weights
from squeezetune.network.zoo import ARCHITECTURES
from squeezetune.pipeline.context import open_context
from squeezetune.pipeline.extraction import CutIndex
from squeezetune.pipeline.fitting import fit_classifier
from squeezetune.pipeline.result import TransferResult
from squeezetune.planning import speeds
from squeezetune.settings import Settings
from squeezetune.system.checkpoint import CheckpointFolder, UnfinishedRun
from squeezetune.system.executor import ThreadExecutor
from squeezetune.training import train

# tests that open OpenVINO without `import_openvino` report nothing either
sys.modules.setdefault("openvino_telemetry", None)


@pytest.fixture
def executor() -> ThreadExecutor:
    return ThreadExecutor(2)


@pytest.fixture(scope="session")
def make_photo() -> Callable[..., bytes]:
    """Make the bytes of a small image; other seeds give other content."""

    def make(
        seed: int = 0, width: int = 16, height: int = 12, kind: str = "JPEG", **options: object
    ) -> bytes:
        coarse = np.random.default_rng(seed).integers(0, 256, (4, 4, 3), dtype=np.uint8)
        buffer = BytesIO()
        Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC).save(
            buffer, kind, **options
        )
        return buffer.getvalue()

    return make


@pytest.fixture
def without_heif(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """As where the package that reads HEIC is not installed."""
    find_spec = decoders.find_spec
    monkeypatch.setattr(
        decoders, "find_spec", lambda name: None if name == "pi_heif" else find_spec(name)
    )
    decoders._load_decoder.cache_clear()
    yield
    decoders._load_decoder.cache_clear()


@pytest.fixture
def write_files(tmp_path: Path) -> Callable[..., Path]:
    """Write files by relative path into a folder for this test; return the folder."""

    def write(files: Mapping[str, bytes], folder: str = "photos") -> Path:
        root = tmp_path / folder
        for name, data in files.items():
            path = root / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(data)
        return root

    return write


@pytest.fixture
def photo_folder(write_files: Callable[..., Path], make_photo: Callable[..., bytes]) -> Path:
    """Write ten different photos of each of three classes: bee, cow and owl."""
    classes = ("bee", "cow", "owl")
    numbers = range(10)
    return write_files(
        {
            f"{name}/{i}.jpg": make_photo(10 * c + i)
            for c, name in enumerate(classes)
            for i in numbers
        }
    )


SHAPES = ("box", "disc", "spike")
# The same network, and the same arithmetic on every machine and in every run.
FIXED = {
    "backbone": "squeezenet1_1",
    "engine": "onnxruntime",
    "precision": "float32",
    "threads": 2,
}


@pytest.fixture(scope="session", autouse=True)
def own_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Keep the user's cache out of the tests, and the tests' out of the user's."""
    with pytest.MonkeyPatch.context() as patch:
        folder = tmp_path_factory.mktemp("cache")
        patch.setenv("SQUEEZETUNE_CACHE", str(folder))
        yield folder


@pytest.fixture(scope="session", autouse=True)
def one_blas_thread() -> Iterator[None]:
    """Leave the threads to our own code, as `learning` does; those of BLAS stall when the machine
    is busy.
    """
    with threadpool_limits(1):
        yield


def measure_once(time: Callable[..., Any]) -> Callable[..., Any]:
    """Let a timing be made once for every size, however often it is asked for."""
    kept = dict[tuple[object, ...], Any]()

    def recall(*given: Any) -> Any:
        sizes = [each for each in given if isinstance(each, int | str)]
        key = (
            *sizes,
            *(
                (site.threads, site.backbone.views, site.backbone.pixels.side)
                for site in given
                if isinstance(site, speeds.BenchmarkSetup)
            ),
        )
        if key not in kept:
            kept[key] = time(*given)
        return kept[key]

    return recall


@pytest.fixture(scope="session", autouse=True)
def machine_measured_once() -> Iterator[None]:
    """Measure once how fast this machine is, which takes seconds, for all plans that tests make."""
    timings = ("graphs", "linear", "pairs", "overlays", "python", "step")
    with pytest.MonkeyPatch.context() as patch:
        for name in (f"time_{timing}" for timing in timings):
            patch.setattr(speeds, name, measure_once(getattr(speeds, name)))
        yield


@pytest.fixture
def empty_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Start from a cache that holds nothing."""
    folder = tmp_path / "empty-cache"
    monkeypatch.setenv("SQUEEZETUNE_CACHE", str(folder))
    return folder


@pytest.fixture
def web_site(monkeypatch: pytest.MonkeyPatch) -> Iterator[WebSite]:
    """Serve files on this computer."""
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    with open_site() as site:
        yield site


@pytest.fixture(scope="session")
def draw_shape() -> Callable[..., Image.Image]:
    """Draw a box, a disc or a spike of some colour on noise: easy to tell apart, and never twice
    the same.
    """

    def draw(shape: str, seed: int, width: int = 80, height: int = 72) -> Image.Image:
        rng = np.random.default_rng((seed, SHAPES.index(shape)))
        image = Image.fromarray(rng.integers(60, 200, (height, width, 3), dtype=np.uint8))
        left, top = (int(x) for x in rng.integers(4, 28, 2))
        side = int(rng.integers(26, 40))
        box, colour = (left, top, left + side, top + side), tuple(rng.integers(0, 256, 3).tolist())
        canvas = ImageDraw.Draw(image)
        if shape == "box":
            canvas.rectangle(box, fill=colour)
        elif shape == "disc":
            canvas.ellipse(box, fill=colour)
        else:
            canvas.polygon(
                [(left, top + side), (left + side, top + side), (left + side // 2, top)],
                fill=colour,
            )
        return image

    return draw


@pytest.fixture(scope="session")
def write_shapes(draw_shape: Callable[..., Image.Image]) -> Callable[..., Path]:
    """Write a folder of shapes: `counts` images of each class, as PNG files."""

    def write(root: Path, counts: Mapping[str, int] | int = 20, first: int = 0) -> Path:
        counts = dict.fromkeys(SHAPES, counts) if isinstance(counts, int) else counts
        for shape, count in counts.items():
            (root / shape).mkdir(parents=True, exist_ok=True)
            for number in range(first, first + count):
                draw_shape(shape, number).save(root / shape / f"{number:03d}.png")
        return root

    return write


@pytest.fixture(scope="session")
def shape_folder(
    write_shapes: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """Write twenty images of each of three shapes; only to be read."""
    return write_shapes(tmp_path_factory.mktemp("shapes") / "photos")


@pytest.fixture(scope="session")
def fixed_settings() -> Settings:
    """Give settings under which two runs on one machine compute the same bits; small, so that they
    are fast.
    """
    return Settings(image_side=64, validation=0.2, test=0.2, folds="none", **FIXED)


@pytest.fixture(scope="session")
def make_learn(shape_folder: Path) -> Callable[..., Callable[..., TransferResult]]:
    """Make a function that learns the shapes with these settings; its further arguments are others
    of these.
    """
    executor = ThreadExecutor(2)
    shapes = index_photos(shape_folder, executor=executor)

    def cut_evenly(index: ImageIndex) -> Split:
        return split_index(index, validation=0.2, test=0.2, seed=0)

    def make(settings: Settings, cache: Path) -> Callable[..., TransferResult]:
        def learn(
            listen: Listener = ignore_event,
            unfinished: CheckpointFolder | None = None,
            resume: bool = False,
            cut: CutIndex = cut_evenly,
            cache: Path = cache,
            index: ImageIndex = shapes,
            **changes: object,
        ) -> TransferResult:
            if "weights" in changes:  # which say what they are of
                changes = {"backbone": "auto", **changes}
            context = open_context(replace(settings, **changes), cache, listen, executor)
            return fit_classifier(index, cut, context, unfinished=UnfinishedRun(unfinished, resume))

        return learn

    return make


@pytest.fixture
def usual_interrupts() -> Iterator[None]:
    """Let Ctrl-C be what it is at a terminal: a job in the background starts with it ignored, as do
    its children.
    """
    former = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, former)


@pytest.fixture(scope="module")
def float32() -> Iterator[None]:
    """Train alike wherever the tests run, and save the time in which the kind of number is chosen.
    Needs torch.
    """
    import torch

    from squeezetune.finetune import workers as crew

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(crew, "choose_precision", lambda: torch.float32)
        yield


@pytest.fixture(scope="session")
def model_folder(
    shape_folder: Path, fixed_settings: Settings, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """Train a model of the three shapes; only to be read."""
    folder = tmp_path_factory.mktemp("models") / "shapes-model"
    train(shape_folder, folder, fixed_settings)
    return folder


@pytest.fixture(scope="module")
def no_plots(model_folder: Path) -> Iterator[None]:  # the model that others look at is drawn before
    """Save the time of drawing in whole runs; plots have tests of their own."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("squeezetune.training.make_plots", lambda record: {})
        yield


@pytest.fixture(scope="session")
def weights() -> Weights:
    return load_weights()


@pytest.fixture(scope="session")
def old_weights() -> Weights:
    """Draw weights for SqueezeNet 1.0."""
    return draw_weights("1.0")


@pytest.fixture(scope="session", params=ARCHITECTURES)
def either_weights(
    request: pytest.FixtureRequest, weights: Weights, old_weights: Weights
) -> Weights:
    """Take weights of either version."""
    return {"1.0": old_weights, "1.1": weights}[request.param]


@pytest.fixture(scope="session")
def real_photos(real_data: Path) -> Callable[[str, int], list[Image.Image]]:
    """Read an even sample of the photos of a real set."""

    def read(name: str, count: int) -> list[Image.Image]:
        with ZipFile(real_data / f"{name}.zip") as archive:
            names = sorted(item for item in archive.namelist() if item.endswith(".jpg"))
            chosen = [names[at * len(names) // count] for at in range(count)]
            return [Image.open(BytesIO(archive.read(item))).convert("RGB") for item in chosen]

    return read


@pytest.fixture(scope="session")
def real_data() -> Path:
    """Find the real images for tests, which are not part of the project."""
    folder = Path(__file__).parents[2] / "shared" / "data"
    if not folder.is_dir():
        pytest.skip("there are no real images: ../shared/data, seen from the project, is missing")
    return folder


@pytest.fixture(scope="session")
def web_runtime(request: pytest.FixtureRequest) -> Path:
    """Find the web build: kept with what pytest remembers, fetched the first time from where npm
    would fetch it.
    """
    cache = request.config.cache.mkdir("squeezetune")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SQUEEZETUNE_CACHE", str(cache))
        kept = cache / "web-runtime" / runtime.VERSION
        if npm := None if kept.is_dir() else shutil.which("npm"):
            asked = subprocess.run(
                [npm, "config", "get", "registry"], capture_output=True, text=True, check=False
            )
            patch.setenv(runtime.REGISTRY_VARIABLES[0], asked.stdout.strip())
        try:
            runtime.load_runtime()
        except ExportError as error:
            pytest.skip(f"no web build of ONNX Runtime: {error.message}")
    return kept
