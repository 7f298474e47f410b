"""A classifier that is a single ONNX file: what it says of itself, in place of a folder's manifest."""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path

from squeezetune.artifact import FLOATS, MODEL, Manifest
from squeezetune.data.content import recognise_format
from squeezetune.errors import ArtifactError, ImageError
from squeezetune.runtimes import import_onnxruntime

# The key of the metadata under which a file says what it computes in.
ARITHMETIC = "arithmetic"
HEAD_BYTES = 64
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
        raise ArtifactError(f"{path} is a photo; needed is a model", f"The model comes before the photos. {_HINT}")
    try:
        return payload, _make_manifest(_read_metadata(payload), payload)
    except (KeyError, ValueError, TypeError) as error:
        raise ArtifactError(f"{path} does not say what its classes are and how it sees images", _HINT) from error


def is_photo(payload: bytes) -> bool:
    """Say whether bytes are those of an image, by their beginning."""
    try:
        recognise_format(payload[:HEAD_BYTES])
    except ImageError:
        return False
    return True


def _read_metadata(payload: bytes) -> Mapping[str, str]:
    """Read the metadata by ONNX Runtime, since prediction needs no other library."""
    onnxruntime = import_onnxruntime()  # slow
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL  # nothing is run
    options.log_severity_level = 4
    try:
        session = onnxruntime.InferenceSession(payload, options, providers=["CPUExecutionProvider"])
    except Exception as error:  # ONNX Runtime's own errors share no other base
        # what is no ONNX at all is told in the words of its parser, which are for nobody
        reason = "it is no ONNX" if "INVALID_PROTOBUF" in str(error) else str(error).splitlines()[0]
        raise ArtifactError(f"The file is no model that can be opened: {reason}", _HINT) from error
    found: Mapping[str, str] = session.get_modelmeta().custom_metadata_map
    return found


def _make_manifest(about: Mapping[str, str], payload: bytes) -> Manifest:
    names, side, views = json.loads(about["class_names"]), int(about["image_side"]), int(about["views"])
    if not (isinstance(names, list) and names and all(isinstance(name, str) for name in names) and side > 0):
        raise ValueError("no classes, or no size")
    weights = {"network": about["network"], "origin": about["weights"], "sha256": about["weights_sha256"]}
    return Manifest(
        class_names=tuple(names),
        image_side=side,
        resize=about["resize"],
        views=views,
        settings=json.loads(about.get("settings", "{}")),
        data={"fingerprint": about.get("data_fingerprint", "")},
        libraries={},
        version=about.get("squeezetune", ""),
        created=about.get("created", ""),
        files={MODEL: hashlib.sha256(payload).hexdigest()},
        weights=weights,
        arithmetic=about.get(ARITHMETIC, FLOATS),
    )
