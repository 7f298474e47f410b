"""Options of `squeezetune train` under which a run is small and its engine is always the same."""

FAST = [
    *("--image-side", "64"),
    *("--validation", "0.2"),
    *("--test", "0.2"),
    *("--folds", "none"),
    *("--engine", "onnxruntime"),
    *("--precision", "float32"),
]
