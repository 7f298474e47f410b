"""What people hand over from Python, in odd kinds and containers: it is taken, or refused in words
before any work.
"""

import datetime
from collections import deque
from contextlib import suppress
from decimal import Decimal
from io import BytesIO, StringIO

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

pytest.importorskip("sklearn", reason="scikit-learn is an extra")
from squeezetune.data.inputs import parse_input
from squeezetune.errors import SqueezeTuneError
from squeezetune.events import ignore_event
from squeezetune.integrations import estimator
from squeezetune.integrations.estimator import SqueezeTuneClassifier
from squeezetune.model.classifier import Prediction, load
from squeezetune.model.explanation import explain
from squeezetune.system.executor import ThreadExecutor

FAST = {
    "effort": "quick",
    "image_side": 48,
    "backbone": "squeezenet1_1",
    "engine": "onnxruntime",
    "precision": "float32",
    "use_cache": False,
}


def draw(seed):
    return np.random.default_rng(seed).integers(0, 256, (8, 9, 3), np.uint8)


def encode(seed):
    file = BytesIO()
    Image.fromarray(draw(seed)).save(file, "PNG")
    return file.getvalue()


SEEDS = st.integers(0, 5)
GOOD_IMAGES = st.one_of(
    SEEDS.map(draw),
    SEEDS.map(encode),
    SEEDS.map(encode).map(BytesIO),
    SEEDS.map(encode).map(bytearray),
    SEEDS.map(draw).map(Image.fromarray),
    SEEDS.map(draw).map(lambda image: image[::-1, ::2]),
    SEEDS.map(draw).map(np.asfortranarray),
)
ODD_IMAGES = st.sampled_from(
    [
        None,
        3,
        2.5,
        "",
        "\0",
        b"",
        b"text",
        "x" * 5000,
        "\udcff.png",
        "http://a/b.jpg",
        [1],
        {},
        object(),
        np.zeros(4),
        np.zeros((0, 3), np.uint8),
        np.zeros((4, 4)),
        np.zeros((3, 3, 7), np.uint8),
        np.array(5),
        np.array("a"),
        np.ma.masked,
        memoryview(b"text"),
        StringIO("text"),
        encode(0)[:60],
        Image.new("RGB", (0, 5)),
        Image.Image(),
    ]
)
IMAGES = st.one_of(GOOD_IMAGES, GOOD_IMAGES, GOOD_IMAGES, ODD_IMAGES)
GOOD_LABELS = st.sampled_from(
    ["a", "b", "2", "10", "01", 1, 2, True, 1.0, np.int64(3), np.str_("q"), np.array(4)]
)
ODD_LABELS = st.sampled_from(
    [
        None,
        float("nan"),
        float("inf"),
        -0.0,
        0.5,
        "",
        "\n",
        "\udcff",
        "9" * 5000,
        b"x",
        b"\xff",
        (1, 2),
        [1],
        {},
        {1},
        np.array([1]),
        np.datetime64("NaT"),
        np.datetime64("2020-01-01"),
        Decimal("NaN"),
        Decimal("sNaN"),
        1e300,
        1j,
        datetime.date(2020, 1, 1),
        np.ma.masked,
        np.void(b"ab"),
        object(),
        object,
        ...,
        slice(1),
        range(3),
    ]
)
LABELS = st.one_of(GOOD_LABELS, GOOD_LABELS, GOOD_LABELS, ODD_LABELS)
CONTAINERS = st.sampled_from([list, tuple, iter, deque, lambda values: (value for value in values)])
NO_CONTAINERS = st.sampled_from(
    [
        None,
        5,
        "abc",
        b"x",
        {},
        {1},
        {"a": 1},
        [],
        (),
        range(4),
        object(),
        np.zeros(0),
        np.zeros((2, 2)),
        np.array(3),
        np.array("a"),
        float("nan"),
        Image.new("RGB", (3, 3)),
        BytesIO(b"x"),
        memoryview(b"text"),
        lambda: 3,
    ]
)
PAIRS = st.tuples(IMAGES, LABELS)
quickly = settings(
    max_examples=60,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)


def several(values):
    """Make a strategy of values in any container, or of what is none."""
    held = st.builds(lambda wrap, items: wrap(items), CONTAINERS, st.lists(values, max_size=5))
    return st.one_of(held, held, held, NO_CONTAINERS)


class TrainingBeginsError(SqueezeTuneError):
    """All was well so far."""


def begin(*_):
    raise TrainingBeginsError("training begins")


@quickly
@given(X=several(IMAGES), y=several(LABELS))
def test_fit_takes_or_refuses_anything(monkeypatch, X, y):
    monkeypatch.setitem(estimator.RECIPES, "auto", begin)
    with pytest.raises(SqueezeTuneError):
        SqueezeTuneClassifier(**FAST).fit(X, y)


@quickly
@given(
    photos=several(
        st.one_of(
            st.tuples(IMAGES, LABELS), st.tuples(IMAGES, GOOD_LABELS), st.lists(IMAGES, max_size=3)
        )
    )
)
def test_pairs_are_taken_or_refused(photos):
    with suppress(SqueezeTuneError):
        index = parse_input(photos, "", "").scan(ThreadExecutor(1), ignore_event, None)
        assert len(index.class_names) > 1


@quickly
@given(
    images=st.one_of(several(IMAGES), IMAGES), rate=st.sampled_from([None, "50%", 0.5, "x", 5, [1]])
)
def test_predict_takes_or_refuses_anything(model_folder, images, rate):
    with suppress(SqueezeTuneError):
        assert isinstance(
            load(model_folder).predict(images, none_of_these=rate), (Prediction, list)
        )


@quickly
@given(image=st.one_of(several(IMAGES), IMAGES), label=st.sampled_from(["", "box", "bax", None]))
def test_explain_takes_or_refuses_anything(model_folder, image, label):
    with suppress(SqueezeTuneError):
        assert explain(model_folder, image, label).heat.ndim == 2
