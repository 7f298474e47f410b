"""What a server has done so far, in the text format that Prometheus reads."""

import threading
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)
IMAGES = (1.0, 2.0, 4.0, 8.0, 16.0, 32.0)


class Histogram:
    """Counts values by upper ends that they do not exceed."""

    def __init__(self, ends: Sequence[float]) -> None:
        self._ends = ends
        self._counts = [0] * (len(ends) + 1)
        self._sum = 0.0

    def add(self, value: float) -> None:
        """Count one value."""
        self._counts[next((at for at, end in enumerate(self._ends) if value <= end), -1)] += 1
        self._sum += value

    def write(self, name: str) -> Iterator[str]:
        """Write it as lines."""
        total = 0
        for end, count in zip((*map(str, self._ends), "+Inf"), self._counts, strict=True):
            total += count
            yield f'{name}_bucket{{le="{end}"}} {total}'
        yield f"{name}_sum {self._sum:.6f}"
        yield f"{name}_count {total}"


class Metrics:
    """Counts requests, images, batches and changes of the model; may be used from any thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._requests: Counter[tuple[str, int]] = Counter()
        self._images: Counter[str] = Counter()
        self._changes: Counter[str] = Counter()
        self._seconds = Histogram(SECONDS)
        self._batches = Histogram(IMAGES)

    def add_request(self, path: str, status: int, seconds: float) -> None:
        """Count an answered request; the seconds of predictions are kept."""
        with self._lock:
            self._requests[path, status] += 1
            if path == "/predict":
                self._seconds.add(seconds)

    def add_images(self, predicted: int, refused: int) -> None:
        """Count the images of a request by what became of them."""
        with self._lock:
            self._images.update(predicted=predicted, refused=refused)

    def add_batch(self, images: int) -> None:
        """Count the images that were classified together."""
        with self._lock:
            self._batches.add(images)

    def add_change(self, outcome: str) -> None:
        """Count a new model in the folder: `loaded` or `refused`."""
        with self._lock:
            self._changes[outcome] += 1

    def write(self, version: str, waiting: int) -> str:
        """Write all of them, with the model in use and the number of images that wait."""
        with self._lock:
            lines = [
                *_head("requests_total", "counter", "Requests answered, by path and HTTP status."),
                *(f'squeezetune_requests_total{{path="{path}",status="{status}"}} {count}'
                  for (path, status), count in sorted(self._requests.items())),
                *_write_counter("images_total", "Images received, by what became of them.", self._images),
                *_write_counter("model_changes_total", "New models in the folder, by what became of them.",
                                self._changes),
                *_head("predict_seconds", "histogram", "Seconds from the headers of a request to its answer."),
                *self._seconds.write("squeezetune_predict_seconds"),
                *_head("batch_images", "histogram", "Images that were classified together."),
                *self._batches.write("squeezetune_batch_images"),
                *_head("waiting_images", "gauge", "Images that wait for a thread."),
                f"squeezetune_waiting_images {waiting}",
                *_head("model_info", "gauge", "The model in use, by the SHA-256 of its file."),
                f'squeezetune_model_info{{version="{version}"}} 1',
            ]  # fmt: skip
        return "\n".join(lines) + "\n"


def _write_counter(name: str, text: str, counts: Mapping[str, int]) -> Iterator[str]:
    yield from _head(name, "counter", text)
    for outcome, count in sorted(counts.items()):
        yield f'squeezetune_{name}{{outcome="{outcome}"}} {count}'


def _head(name: str, kind: str, text: str) -> Iterator[str]:
    yield f"# HELP squeezetune_{name} {text}"
    yield f"# TYPE squeezetune_{name} {kind}"
