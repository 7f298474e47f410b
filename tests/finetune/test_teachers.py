from dataclasses import replace

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="torch is an extra")
from tiny_training import SIDE, make_pixels  # noqa: E402

from squeezetune.data.pixels import PixelSettings  # noqa: E402
from squeezetune.finetune.batches import show_images  # noqa: E402
from squeezetune.finetune.teachers import FrozenTeacher  # noqa: E402
from squeezetune.network.backbone import FLOAT_RUNTIME, Backbone  # noqa: E402
from squeezetune.network.frozen_classifier import FrozenClassifier  # noqa: E402
from squeezetune.network.graph import build_backbone  # noqa: E402
from squeezetune.network.pretrained import load_pretrained  # noqa: E402
from squeezetune.network.zoo import SQUEEZENET1_1  # noqa: E402

PIXELS = make_pixels(11)[0]
CLASSES = 3


@pytest.fixture(scope="module")
def classifier():
    """Make a classifier of EfficientNet-Lite0, whose pixels are normalised in another way than the
    learner's.
    """
    pretrained = load_pretrained(backbone="efficientnet_lite0").without_classifier()
    features = pretrained.architecture.feature_count
    backbone = Backbone(
        build_backbone(pretrained.weights), FLOAT_RUNTIME, PixelSettings(SIDE), 1, features
    )
    rng = np.random.default_rng(0)
    layers = [(features, 8), (8, CLASSES)]
    head = tuple((0.3 * rng.standard_normal((a, b), np.float32), np.ones(b, np.float32))
                 for a, b in layers)  # fmt: skip
    return FrozenClassifier(backbone, head, use_roots=True)


def test_a_frozen_classifier_applies_its_head_to_all_images(classifier):
    answers = classifier.open(1)(PIXELS)
    assert answers.shape == (len(PIXELS), CLASSES)
    features = classifier.backbone.open(1)(PIXELS[-1:])[0]
    (first, shift), (last, end) = classifier.head
    roots = np.copysign(np.sqrt(np.abs(features)), features)
    expected = np.maximum(roots @ first + shift, 0) @ last + end
    np.testing.assert_allclose(answers[-1], expected[0], rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("precision", [torch.float32, torch.bfloat16])
def test_a_teacher_sees_the_pixels_that_the_learner_is_shown(classifier, precision):
    teacher = FrozenTeacher(classifier, SQUEEZENET1_1, 1)
    images = show_images(torch.from_numpy(PIXELS), SIDE).to(precision)
    found, expected = teacher(images, None).numpy(), classifier.open(1)(PIXELS)
    spread = np.abs(expected - expected.mean(0)).mean()
    # bfloat16 rounds a pixel by up to half a step
    assert np.abs(found - expected).mean() < {torch.float32: 1e-5, torch.bfloat16: 0.1}[
        precision
    ] * max(1, spread)


def test_images_of_another_size_are_brought_to_the_teachers(classifier):
    flat = np.full((2, 48, 48, 3), (90, 120, 150), np.uint8)
    images = show_images(torch.from_numpy(flat), 48)
    found = FrozenTeacher(classifier, SQUEEZENET1_1, 1)(images, None)
    expected = classifier.open(1)(np.full((2, SIDE, SIDE, 3), (90, 120, 150), np.uint8))
    np.testing.assert_allclose(found.numpy(), expected, rtol=1e-4, atol=1e-4)
    roots = replace(classifier, use_roots=False)
    assert np.abs(roots.open(1)(flat[:, :SIDE, :SIDE]) - expected).max() > 1e-3
