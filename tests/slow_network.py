"""SqueezeNet 1.1 and 1.0 in plain numpy, one image at a time: the slow twin of the graphs."""

from math import ceil

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view

FIRE_PLACES = (3, 4, 6, 7, 9, 10, 11, 12)
OLD_FIRE_PLACES = (3, 4, 5, 7, 8, 9, 10, 12)  # in 1.0, which pools after conv1, fire4 and fire8


def run_slowly(weights, pixels):
    """Run one image (h, w, 3) uint8; return every activation by name, each (channels, h, w)
    float64.
    """
    x = ((pixels / 255 - (0.485, 0.456, 0.406)) / (0.229, 0.224, 0.225)).transpose(2, 0, 1)
    x = convolve(x, weights, "features.0", stride=2)
    found = {"conv1": x}
    is_old = len(x) == 96
    for number, place in enumerate(OLD_FIRE_PLACES if is_old else FIRE_PLACES, start=2):
        x = pool(x) if number in ((2, 5, 9) if is_old else (2, 4, 6)) else x
        x = found[f"fire{number}.squeeze"] = convolve(x, weights, f"features.{place}.squeeze")
        one = convolve(x, weights, f"features.{place}.expand1x1")
        three = convolve(x, weights, f"features.{place}.expand3x3", pad=1)
        x = found[f"fire{number}.expand"] = np.concatenate([one, three])
    return found


def take_features(activations):
    """Return the mean of every channel after fire5 ... fire9, (2048,)."""
    return np.concatenate(
        [activations[f"fire{number}.expand"].mean(axis=(1, 2)) for number in range(5, 10)]
    )


def classify_slowly(weights, pixels):
    """Return ImageNet's 1,000 classes, the likeliest first, by the classifier that SqueezeNet came
    with.
    """
    x = convolve(run_slowly(weights, pixels)["fire9.expand"], weights, "classifier.1")
    return np.argsort(-x.mean(axis=(1, 2)), kind="stable").tolist()


def convolve(x, weights, layer, stride=1, pad=0):
    """Convolve and cut off below zero."""
    kernel, bias = weights[f"{layer}.weight"].astype(np.float64), weights[f"{layer}.bias"]
    windows = sliding_window_view(
        np.pad(x, ((0, 0), (pad, pad), (pad, pad))), kernel.shape[2:], axis=(1, 2)
    )
    sums = np.tensordot(kernel, windows[:, ::stride, ::stride], axes=((1, 2, 3), (0, 3, 4)))
    return np.maximum(sums + bias[:, None, None], 0)


def pool(x):
    """Take the maximum of 3 x 3 at stride 2; the last window may hang over the edge."""
    reach = [2 * ceil((length - 3) / 2) + 3 - length for length in x.shape[1:]]
    padded = np.pad(x, ((0, 0), (0, reach[0]), (0, reach[1])), constant_values=-np.inf)
    return sliding_window_view(padded, (3, 3), axis=(1, 2))[:, ::2, ::2].max(axis=(3, 4))
