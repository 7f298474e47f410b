"""Options of `squeezetune train` under which a run is small, and those under which its engine is
always the same.
"""

SMALL = [
    *("--backbone", "squeezenet1_1"),
    *("--image-side", "64"),
    *("--validation", "0.2"),
    *("--test", "0.2"),
    *("--folds", "none"),
]
FAST = [*SMALL, *("--engine", "onnxruntime"), *("--precision", "float32")]
