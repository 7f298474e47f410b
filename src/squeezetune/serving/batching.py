"""Images of all requests in one queue, which a few threads empty together.

A thread that is free takes what waits, shared out evenly and no more than it can run at once;
nobody ever waits for a batch to fill. While all threads are busy the queue grows, and the batches
with it. A lone image gets all cores.
"""

import asyncio
import threading
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from squeezetune.model.output import Outcome
from squeezetune.serving.models import ServedModel
from squeezetune.serving.refusals import RequestError

# At most so many images are taken at once: what costs a moment for each turn is then shared by
# enough of them.
MOST_AT_ONCE = 8


@dataclass(eq=False)
class Work:
    """The images of one request; `future` belongs to the event loop and holds their outcomes in the
    end.
    """

    model: ServedModel
    images: Sequence[bytes]
    future: "asyncio.Future[list[Outcome]]"
    outcomes: dict[int, Outcome] = field(default_factory=dict)
    error: Exception | None = None
    is_cancelled: bool = False

    def cancel(self) -> None:
        """Leave out what has not begun: the client is gone, or has waited too long."""
        self.is_cancelled = True

    def settle(self) -> None:
        """Give the outcomes out if all are there; called by the event loop."""
        if self.future.done() or self.is_cancelled:
            return
        if self.error:
            self.future.set_exception(self.error)
        elif len(self.outcomes) == len(self.images):
            self.future.set_result([self.outcomes[at] for at in range(len(self.images))])


@dataclass(frozen=True)
class ImageJob:
    """One image of a request."""

    work: Work
    place: int


class Batcher:
    """Threads that classify the images of all requests, within a `with` block."""

    def __init__(
        self,
        threads: int,
        waiting: int,
        max_pixels: int,
        note_batch: Callable[[int], None] = lambda count: None,
    ) -> None:
        self._waiting, self._max_pixels, self._note_batch = waiting, max_pixels, note_batch
        self._jobs: deque[ImageJob] = deque()
        self._changed = threading.Condition()
        self._is_closed = False
        self._busy = 0
        self._threads = [
            threading.Thread(target=self._serve, name=f"classify-{at}") for at in range(threads)
        ]

    def __enter__(self) -> "Batcher":
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *reason: object) -> None:
        with self._changed:
            self._is_closed = True
            self._changed.notify_all()
        for thread in self._threads:
            thread.join()

    @property
    def waiting(self) -> int:
        """How many images wait for a thread."""
        return len(self._jobs)

    def submit(self, model: ServedModel, images: Sequence[bytes]) -> Work:
        """Queue the images of a request; to be called from the event loop.

        Raises:
            Refusal: too many wait already.

        """
        work = Work(model, images, asyncio.get_running_loop().create_future())
        with self._changed:
            if len(self._jobs) + len(images) > self._waiting:
                raise RequestError(
                    "busy",
                    f"{len(self._jobs)} images are waiting already",
                    "Ask again in a moment.",
                )
            self._jobs.extend(ImageJob(work, place) for place in range(len(images)))
            self._changed.notify(len(images))
        return work

    def _serve(self) -> None:
        """Classify what waits until the end; what one thread does."""
        while batch := self._take():
            try:
                self._classify(batch)
            except Exception:  # of one image, e.g. for want of memory: the others are not to suffer
                for job in batch:
                    self._classify_alone(job)
            with self._changed:
                self._busy -= 1
            self._note_batch(len(batch))
            _settle_soon(batch)

    def _classify(self, batch: list[ImageJob]) -> None:
        images, model = [job.work.images[job.place] for job in batch], batch[0].work.model
        if len(images) == self._busy == 1 and not self._jobs:
            outcomes = [model.classify_lone(images[0], self._max_pixels)]
        else:
            outcomes = model.classify(images, self._max_pixels)
        for job, outcome in zip(batch, outcomes, strict=True):
            job.work.outcomes[job.place] = outcome

    def _classify_alone(self, job: ImageJob) -> None:
        try:
            self._classify([job])
        except Exception as error:  # the thread lives on, and the request hears of it
            job.work.error = error

    def _take(self) -> list[ImageJob]:
        """Wait for images, and take this thread's share of them, all for one model; nothing at the
        end.
        """
        with self._changed:
            while True:
                batch = self._pick(min(MOST_AT_ONCE, -(-len(self._jobs) // len(self._threads))))
                if batch or self._is_closed:
                    self._busy += bool(batch)
                    return batch
                self._changed.wait()

    def _pick(self, count: int) -> list[ImageJob]:
        batch: list[ImageJob] = []
        while self._jobs and len(batch) < count:
            job = self._jobs[0]
            if batch and job.work.model is not batch[0].work.model:
                break
            self._jobs.popleft()
            if not job.work.is_cancelled:
                batch.append(job)
        return batch


def _settle_soon(batch: list[ImageJob]) -> None:
    """Let the event loop settle the requests of a batch: in one call, since each wakes it up."""
    works = {id(job.work): job.work for job in batch}

    def settle() -> None:
        for work in works.values():
            work.settle()

    batch[0].work.future.get_loop().call_soon_threadsafe(settle)
