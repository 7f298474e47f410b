"""A classifier that is a single ONNX file: what it says of itself, in place of a folder's
manifest.
"""

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from squeezetune.data.sources.content import recognise_format
from squeezetune.data.sources.source import list_some
from squeezetune.errors import ArtifactError, ImageError
from squeezetune.model.artifact import FLOATS, MODEL, Manifest, are_class_names, is_image_side
from squeezetune.network.inference import IMAGE
from squeezetune.system.telemetry import import_onnxruntime

# The key of the metadata under which a file says what it computes in.
ARITHMETIC = "arithmetic"
HEAD_BYTES = 64
# What a model takes and gives: images, probabilities and, of most models, familiarity.
TAKEN = [f"{IMAGE}: tensor(uint8) of 4 dimensions"]
GIVEN = [
    "probabilities: tensor(float) of 2 dimensions",
    "familiarity: tensor(float) of 1 dimensions",
]
_HINT = "Give a model's folder, or an .onnx file that `squeezetune export` has written."


def read_model_file(path: Path) -> tuple[bytes, Manifest]:
    """Read an ONNX file of ours: its bytes, and what its metadata say.

    How sure the model is of photos that it has not learnt is not among them.

    Raises:
        ArtifactError: it cannot be read, or is another model.

    """
    try:
        payload = path.read_bytes()
    except OSError as error:
        raise ArtifactError(f"{path} cannot be read: {error.strerror}", _HINT) from error
    if is_photo(payload):
        raise ArtifactError(
            f"{path} is a photo; needed is a model", f"The model comes before the photos. {_HINT}"
        )
    return payload, parse_model(payload, path)


def parse_model(payload: bytes, called: str | Path) -> Manifest:
    """Read what the bytes of an ONNX file of ours say of themselves.

    Raises:
        ArtifactError: it is another model.

    """
    session = _open_session(payload)
    try:
        manifest = _make_manifest(session.get_modelmeta().custom_metadata_map, payload)
    except (KeyError, ValueError, TypeError, RecursionError) as error:
        raise ArtifactError(
            f"{called} does not say what its classes are and how it sees images", _HINT
        ) from error
    check_signature(session, manifest.class_names)
    return manifest


def is_photo(payload: bytes) -> bool:
    """Say whether bytes are those of an image, by their beginning."""
    try:
        recognise_format(payload[:HEAD_BYTES])
    except ImageError:
        return False
    return True


def _open_session(payload: bytes) -> Any:
    """Open a file by ONNX Runtime, only to look at it, since prediction needs no other library."""
    onnxruntime = import_onnxruntime()  # slow
    options = onnxruntime.SessionOptions()
    # nothing is run
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.log_severity_level = 4
    try:
        return onnxruntime.InferenceSession(payload, options, providers=["CPUExecutionProvider"])
    except Exception as error:  # ONNX Runtime's own errors share no other base
        # what is no ONNX at all is told in the words of its parser, which are for nobody
        reason = "it is no ONNX" if "INVALID_PROTOBUF" in str(error) else str(error).splitlines()[0]
        raise ArtifactError(f"The file is no model that can be opened: {reason}", _HINT) from error


def check_signature(session: Any, class_names: Sequence[str]) -> None:
    """Make sure that a model takes images and gives probabilities, and perhaps familiarity, as ours
    do.

    Raises:
        ArtifactError: it takes or gives something else.

    """
    taken = [_describe_value(value) for value in session.get_inputs()]
    given = [_describe_value(value) for value in session.get_outputs()]
    if taken != TAKEN or given not in (GIVEN[:1], GIVEN):
        raise ArtifactError(
            f"The model takes {list_some(taken)} and gives {list_some(given)}; needed is one that "
            f"takes {TAKEN[0]} and gives {GIVEN[0]}",
            _HINT,
        )
    count = session.get_outputs()[0].shape[1]
    if isinstance(count, int):
        check_count(count, class_names)


def check_count(count: int, class_names: Sequence[str]) -> None:
    """Make sure that a model gives a value for each class."""
    if count != len(class_names):
        raise ArtifactError(
            f"The model gives {count} values for each image; needed is one for each of the "
            f"{len(class_names)} classes that its manifest names",
            "Train the model again, or copy the whole folder again from where it came.",
        )


def _describe_value(value: Any) -> str:
    """Describe what a model takes or gives."""
    size = f" of {len(value.shape)} dimensions" if value.type.startswith("tensor") else ""
    return f"{value.name}: {value.type}{size}"


def _make_manifest(about: Mapping[str, str], payload: bytes) -> Manifest:
    names = json.loads(about["class_names"])
    side = int(about["image_side"])
    views = int(about["views"])
    settings = json.loads(about.get("settings", "{}"))
    if not (are_class_names(names) and is_image_side(side) and isinstance(settings, dict)):
        raise ValueError("no classes, no size, or no settings")
    weights = {
        "network": about["network"],
        "origin": about["weights"],
        "sha256": about["weights_sha256"],
    }
    return Manifest(
        class_names=tuple(names),
        image_side=side,
        resize=about["resize"],
        views=views,
        settings=settings,
        data={"fingerprint": about.get("data_fingerprint", "")},
        libraries={},
        version=about.get("squeezetune", ""),
        created=about.get("created", ""),
        files={MODEL: hashlib.sha256(payload).hexdigest()},
        weights=weights,
        arithmetic=about.get(ARITHMETIC, FLOATS),
    )
