"""Options of `squeezetune train` under which a run is small, and those under which its engine is
always the same; and these for a network that is named, and has a side of its own.
"""

PARTS = [*("--validation", "0.2"), *("--test", "0.2"), *("--folds", "none")]
ENGINE = [*("--engine", "onnxruntime"), *("--precision", "float32")]
SMALL = [*("--backbone", "squeezenet1_1"), *("--image-side", "64"), *PARTS]
FAST = [*SMALL, *ENGINE]
FAST_WITH_NETWORK = [*PARTS, *ENGINE]
