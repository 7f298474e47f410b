"""Weights of either SqueezeNet as a trained network might have them: those of 1.0 are not in the
package.
"""

import numpy as np

from squeezetune.network.weights import find_architecture


def draw_weights(version="1.0", num_classes=1000, seed=0):
    """Draw kernels that keep the scale of what goes through them (He et al. 2015), rounded to
    float16 as published.
    """
    rng = np.random.default_rng(seed)
    weights = {}
    for name, shape in find_architecture(version).list_shapes(num_classes).items():
        scale = np.sqrt(2 / np.prod(shape[1:])) if len(shape) == 4 else 0.05
        weights[name] = (scale * rng.standard_normal(shape)).astype(np.float16).astype(np.float32)
    return weights


def perturb(weights, seed=0, share=0.05):
    """Move every value a little, as further training would; float32 that float16 does not hold."""
    rng = np.random.default_rng(seed)
    return {name: value * (1 + share * rng.standard_normal(value.shape)).astype(np.float32)
            for name, value in weights.items()}  # fmt: skip
