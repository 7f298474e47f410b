import asyncio
import threading
from contextlib import contextmanager

import pytest

from squeezetune.serving.batching import MOST_AT_ONCE, Batcher
from squeezetune.serving.refusals import RequestError


class Model:
    """Stands for a model: gives each image back, once the gate is open, and notes what came
    together.
    """

    def __init__(self):
        self.gate, self.batches, self.lone = threading.Event(), [], []

    def classify_lone(self, image, max_pixels):
        self.lone.append(image)
        return self.classify([image], max_pixels)[0]

    def classify(self, images, max_pixels):
        assert self.gate.wait(20)
        self.batches.append(list(images))
        if b"bad" in images:
            raise MemoryError
        return list(images)


@contextmanager
def run_batcher(waiting=99, threads=1):
    counts = []
    with Batcher(threads, waiting, 1000, counts.append) as batcher:
        yield batcher
    assert batcher.waiting == 0


async def begin(batcher, model, image=b"first"):
    """Keep a thread busy with an image, so that others have to wait."""
    work = batcher.submit(model, [image])
    while batcher.waiting:
        await asyncio.sleep(0.001)
    return work


def test_what_waits_is_taken_together_and_in_order():
    async def ask():
        first = await begin(batcher, model)
        works = [batcher.submit(model, [b"%d" % at, b"more"]) for at in range(6)]
        model.gate.set()
        return [await work.future for work in (first, *works)]

    model = Model()
    with run_batcher() as batcher:
        answers = asyncio.run(ask())
    assert answers == [[b"first"], *([b"%d" % at, b"more"] for at in range(6))]
    assert [len(batch) for batch in model.batches] == [1, MOST_AT_ONCE, 12 - MOST_AT_ONCE]


def test_an_image_gets_all_cores_only_while_it_is_alone():
    async def ask():
        first = batcher.submit(model, [b"first"])
        while not model.lone:
            await asyncio.sleep(0.001)
        second = await begin(batcher, model, b"second")  # while the other thread is busy
        rest = batcher.submit(model, [b"a", b"b"])
        model.gate.set()
        for work in (first, second, rest):
            await work.future
        await batcher.submit(model, [b"last"]).future

    model = Model()
    with run_batcher(threads=2) as batcher:
        asyncio.run(ask())
    assert model.lone[0] == b"first"
    assert model.lone[-1] == b"last"
    assert b"second" not in model.lone


def test_images_of_two_models_are_not_mixed():
    async def ask():
        await begin(batcher, old)
        works = [batcher.submit(model, [b"x"]) for model in (old, new, new)]
        old.gate.set()
        new.gate.set()
        return [await work.future for work in works]

    old, new = Model(), Model()
    with run_batcher() as batcher:
        assert asyncio.run(ask()) == [[b"x"]] * 3
    assert (old.batches, new.batches) == ([[b"first"], [b"x"]], [[b"x", b"x"]])


def test_an_image_that_fails_fails_alone():
    async def ask():
        await begin(batcher, model)
        works = [batcher.submit(model, [name]) for name in (b"good", b"bad", b"fine")]
        model.gate.set()
        return await asyncio.gather(*(work.future for work in works), return_exceptions=True)

    model = Model()
    with run_batcher() as batcher:
        good, bad, fine = asyncio.run(ask())
    assert (good, fine) == ([b"good"], [b"fine"])
    assert isinstance(bad, MemoryError)


def test_what_nobody_waits_for_is_left_out():
    async def ask():
        await begin(batcher, model)
        gone, there = batcher.submit(model, [b"gone"]), batcher.submit(model, [b"there"])
        gone.cancel()
        model.gate.set()
        await there.future

    model = Model()
    with run_batcher() as batcher:
        asyncio.run(ask())
    assert model.batches == [[b"first"], [b"there"]]


def test_too_many_are_refused_and_the_others_stay():
    async def ask():
        await begin(batcher, model)
        work = batcher.submit(model, [b"a", b"b"])
        with pytest.raises(RequestError) as caught:
            batcher.submit(model, [b"c", b"d"])
        assert caught.value.status == 503
        model.gate.set()
        return await work.future

    model = Model()
    with run_batcher(waiting=3) as batcher:
        assert asyncio.run(ask()) == [b"a", b"b"]
