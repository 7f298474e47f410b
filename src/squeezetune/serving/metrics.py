"""What a server has done so far, as Prometheus reads it."""

from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, Counter, Gauge, Histogram, Info, generate_latest

CONTENT_TYPE = CONTENT_TYPE_LATEST
SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)
IMAGES = (1.0, 2.0, 4.0, 8.0, 16.0, 32.0)


class Metrics:
    """Counts requests, images, batches and changes of the model; may be used from any thread."""

    def __init__(self) -> None:
        # one of its own: another server in this process, and what else it counts, stay out
        self._registry = CollectorRegistry()
        own = {"namespace": "squeezetune", "registry": self._registry}
        self._requests = Counter("requests", "Requests answered, by path and HTTP status.", ["path", "status"], **own)
        self._images = Counter("images", "Images received, by what became of them.", ["outcome"], **own)
        self._changes = Counter(
            "model_changes", "New models in the folder, by what became of them.", ["outcome"], **own
        )
        self._seconds = Histogram(
            "predict_seconds", "Seconds from the headers of a request to its answer.", buckets=SECONDS, **own
        )
        self._batches = Histogram("batch_images", "Images that were classified together.", buckets=IMAGES, **own)
        self._waiting = Gauge("waiting_images", "Images that wait for a thread.", **own)
        self._model = Info("model", "The model in use, by the SHA-256 of its file.", **own)

    def add_request(self, path: str, status: int, seconds: float) -> None:
        """Count an answered request; the seconds of predictions are kept."""
        self._requests.labels(path, status).inc()
        if path == "/predict":
            self._seconds.observe(seconds)

    def add_images(self, predicted: int, refused: int) -> None:
        """Count the images of a request by what became of them."""
        self._images.labels("predicted").inc(predicted)
        self._images.labels("refused").inc(refused)

    def add_batch(self, images: int) -> None:
        """Count the images that were classified together."""
        self._batches.observe(images)

    def add_change(self, outcome: str) -> None:
        """Count a new model in the folder: `loaded` or `refused`."""
        self._changes.labels(outcome).inc()

    def write(self, version: str, waiting: int) -> bytes:
        """Write all of them, with the model in use and the number of images that wait."""
        self._waiting.set(waiting)
        self._model.info({"version": version})
        text: bytes = generate_latest(self._registry)
        return text
