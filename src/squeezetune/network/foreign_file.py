"""ONNX files that other programs wrote: read within limits, refused in words, and brought to one
form.
"""

import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from google.protobuf.message import DecodeError
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper
from onnx.external_data_helper import uses_external_data
from onnx.inliner import inline_local_functions
from onnx.version_converter import convert_version

from squeezetune.data.sources.source import list_some
from squeezetune.errors import WeightsError
from squeezetune.network.image_input import (
    FLOATS,
    HALVES,
    HINT,
    ImageInput,
    find_image_input,
    find_output,
)
from squeezetune.network.inference import RunOutputs
from squeezetune.network.onnx_builder import IR_VERSION, OPSET
from squeezetune.system.telemetry import import_onnxruntime

# A file, which is in memory several times while it is read; the format itself ends at 2 GiB.
MOST_BYTES = 1 << 30
# What stands for what a file does not say.
UNKNOWN = "unknown"
# Relative distance up to which two ways to compute a network are the same one.
SAME_WITHIN = 1e-3


@dataclass(frozen=True, eq=False)
class ForeignFile:
    """A network of somebody else, all constants as initializers, all floats as float32, operators
    of version 18 at least.

    `output` is the one that all others are steps towards, or "" where they part; `origin` says what
    wrote the file, `sha256` is that of its bytes.
    """

    model: onnx.ModelProto
    image: ImageInput
    output: str
    metadata: Mapping[str, str]
    origin: str
    sha256: str

    @property
    def opset(self) -> int:
        """The version of the operators."""
        return find_opset(self.model)

    @property
    def parameter_count(self) -> int:
        """How many floats the file has."""
        floats = [item for item in self.model.graph.initializer if item.data_type in FLOATS]
        return sum(int(np.prod(item.dims)) for item in floats)


def read_foreign_file(path: str | Path) -> ForeignFile:
    """Read the network in an ONNX file of another program.

    Raises:
        WeightsError: it cannot be read, or is nothing that can be used as a network for images.
    """
    path = Path(path)
    try:
        if path.stat().st_size > MOST_BYTES:
            raise WeightsError(f"{path}: {_tell_size(path.stat().st_size)}", HINT)
        payload = path.read_bytes()
    except OSError as error:
        raise WeightsError(
            f"The network cannot be read: {path}: {error.strerror}", "Look at the path."
        ) from error
    try:
        return parse_foreign_file(payload)
    except WeightsError as error:
        raise WeightsError(f"{path}: {error.message}", error.hint) from error


def parse_foreign_file(payload: bytes) -> ForeignFile:
    """Read the network in the bytes of an ONNX file; nothing beside them is opened.

    Raises:
        WeightsError: they are no ONNX, or nothing that can be used as a network for images.
    """
    if len(payload) > MOST_BYTES:
        raise WeightsError(_tell_size(len(payload)), HINT)
    model = _parse(payload)
    _refuse_unusable(model)
    model = _convert(_fill_constants(inline_local_functions(model)))
    origin = " ".join(filter(None, [model.producer_name, model.producer_version])) or UNKNOWN
    return ForeignFile(
        _use_floats(model),
        find_image_input(model),
        find_output(model),
        {item.key: item.value for item in model.metadata_props},
        origin,
        hashlib.sha256(payload).hexdigest(),
    )


def find_opset(model: onnx.ModelProto) -> int:
    """Tell the version of the standard operators that a file uses."""
    return max((item.version for item in model.opset_import if not item.domain), default=0)


def open_quietly(payload: bytes) -> RunOutputs:
    """Open a graph in ONNX Runtime on one thread, to see whether and how it works: what does not is
    told by an exception alone.

    Raises:
        WeightsError: ONNX Runtime takes it for no network.
    """
    onnxruntime = import_onnxruntime()
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.log_severity_level = 1, 4
    try:
        session = onnxruntime.InferenceSession(payload, options, providers=["CPUExecutionProvider"])
    except Exception as error:  # ONNX Runtime's own errors share no other base
        raise WeightsError(
            f"ONNX Runtime cannot open this network: {shorten_reason(error)}", HINT
        ) from error
    [image] = session.get_inputs()

    def run(images: NDArray[Any]) -> tuple[NDArray[Any], ...]:
        try:
            return tuple(session.run(None, {image.name: images}))
        except Exception as error:
            raise WeightsError(
                f"The network cannot be run: {shorten_reason(error)}", HINT
            ) from error

    return run


def shorten_reason(error: Exception) -> str:
    """Take the first line of what a library says, which may be followed by its own code."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:300]


def are_close(found: NDArray[Any], expected: NDArray[Any]) -> bool:
    """Say whether values are the same but for rounding; what is not finite is never the same."""
    scale = max(float(np.abs(expected).max(initial=0)), 1e-6)
    same_shape = found.shape == expected.shape
    return same_shape and bool(np.abs(found - expected).max(initial=0) <= SAME_WITHIN * scale)


# ---- what is refused


def _tell_size(size: int) -> str:
    return f"The file has {size / 2**20:,.0f} MiB; at most {MOST_BYTES >> 20:,} can be read."


def _parse(payload: bytes) -> onnx.ModelProto:
    try:
        model = onnx.load_model_from_string(payload)
    except DecodeError as error:
        raise WeightsError("This is no ONNX file.", HINT) from error
    if not model.graph.node:
        raise WeightsError("This is no ONNX file, or one without a single operator.", HINT)
    # of names that are no UTF-8 the parser gives the bytes
    if not all(isinstance(name, str) for name in _list_names(model)):
        raise WeightsError("The ONNX file is damaged: a name in it is no text.", HINT)
    return model


def _list_names(model: onnx.ModelProto) -> Iterator[Any]:
    yield from (model.producer_name, model.producer_version)
    for pair in model.metadata_props:
        yield from (pair.key, pair.value)
    yield from (item.domain for item in model.opset_import)
    for part in (model.graph, *model.functions):
        for node in part.node:
            yield from (node.name, node.op_type, node.domain, *node.input, *node.output)
            yield from (item.name for item in node.attribute)
    for items in (model.graph.input, model.graph.output, model.graph.initializer, model.functions):
        yield from (item.name for item in items)


def _refuse_unusable(model: onnx.ModelProto) -> None:
    """Refuse what cannot be used, in words, the most likely first."""
    if any(uses_external_data(tensor) for tensor in _list_tensors(model)):
        raise WeightsError(
            "The parameters lie in other files beside this one (external data); needed is one file "
            "that has everything.",
            "Export it with external_data=False, or write it again: "
            "onnx.save(onnx.load(FILE), NEW_FILE, save_as_external_data=False)",
        )
    if model.graph.sparse_initializer:
        raise WeightsError("The file has sparse parameters; needed are dense ones.", HINT)
    nodes = [node for graph in (model.graph, *model.functions) for node in graph.node]
    own = {(item.domain, item.name) for item in model.functions}
    foreign = {
        f"{node.domain}.{node.op_type}"
        for node in nodes
        if node.domain not in ("", "ai.onnx") and (node.domain, node.op_type) not in own
    }
    if foreign:
        raise WeightsError(
            f"The file has operators that are not among ONNX's own: {list_some(sorted(foreign))}.",
            "Export it without optimisations for one runtime.",
        )
    if parts := {
        node.op_type
        for node in nodes
        if any(item.HasField("g") or item.graphs for item in node.attribute)
    }:
        raise WeightsError(
            f"The file runs parts of itself by conditions or again and again: "
            f"{list_some(sorted(parts))}; needed is a network that is computed straight on.",
            "Export it by tracing it with one image.",
        )
    if whole := {
        node.op_type
        for node in nodes
        if node.op_type.startswith("QLinear") or node.op_type.endswith("Integer")
    }:
        raise WeightsError(
            f"The file is quantised to operators on whole numbers: {list_some(sorted(whole))}.",
            "Give the network before it was quantised, or in the form with QuantizeLinear and "
            "DequantizeLinear.",
        )
    _check_structure(model)


def _check_structure(model: onnx.ModelProto) -> None:
    """Let ONNX check a file, but for the shapes of outputs, which runtimes do without."""
    given = [(item, onnx.TypeProto.FromString(item.type.SerializeToString()))
             for item in model.graph.output]  # fmt: skip
    for item, _ in given:
        item.type.CopyFrom(helper.make_tensor_type_proto(TensorProto.FLOAT, []))
    try:
        onnx.checker.check_model(model)
    except (onnx.checker.ValidationError, UnicodeDecodeError) as error:
        raise WeightsError(f"The ONNX file is damaged: {shorten_reason(error)}", HINT) from error
    for item, kind in given:
        item.type.CopyFrom(kind)


def _list_tensors(model: onnx.ModelProto) -> Iterator[onnx.TensorProto]:
    yield from model.graph.initializer
    for graph in (model.graph, *model.functions):
        for node in graph.node:
            for item in node.attribute:
                yield from ([item.t] if item.HasField("t") else [])
                yield from item.tensors


# ---- one form


def _fill_constants(model: onnx.ModelProto) -> onnx.ModelProto:
    """Keep what Constant nodes give as initializers, which are no inputs, and forget notes on
    nodes.
    """
    graph, kept = model.graph, []
    for node in graph.node:
        if node.op_type == "Constant":
            graph.initializer.append(_read_constant(node))
        else:
            node.ClearField("doc_string")
            node.ClearField("metadata_props")
            kept.append(node)
    known = {item.name for item in graph.initializer}
    inputs = [item for item in graph.input if item.name not in known]
    for field, items in (("node", kept), ("input", inputs)):
        graph.ClearField(field)
        getattr(graph, field).extend(items)
    # before version 4 of the file, constants had to be inputs too
    model.ir_version = max(model.ir_version, IR_VERSION)
    return model


def _read_constant(node: onnx.NodeProto) -> onnx.TensorProto:
    [item] = node.attribute
    value = helper.get_attribute_value(item)
    if item.name == "value":
        tensor = onnx.TensorProto()
        tensor.CopyFrom(value)
        tensor.name = node.output[0]
        return tensor
    kinds = {"value_float": np.float32, "value_floats": np.float32,
             "value_int": np.int64, "value_ints": np.int64}  # fmt: skip
    if item.name not in kinds:
        raise WeightsError(
            f"The file has a constant of the kind {item.name}; needed are numbers.", HINT
        )
    return numpy_helper.from_array(np.asarray(value, kinds[item.name]), node.output[0])


def _convert(model: onnx.ModelProto) -> onnx.ModelProto:
    """Bring operators of earlier versions to the one that ours are of; later ones are left as they
    are.

    The converter is ONNX's own. What it made is run beside the original: they must agree.
    """
    found = find_opset(model)
    if found >= OPSET:
        return model
    try:
        converted = convert_version(model, OPSET)
    except Exception as error:  # the converter's own errors share no other base
        raise WeightsError(
            f"The file has operators of version {found}, which cannot be brought to {OPSET}: "
            f"{shorten_reason(error)}",
            f"Export it with opset_version={OPSET}.",
        ) from error
    image = find_image_input(model)
    noise = image.make_noise(image.batch or 1, image.side or 224)
    if _is_half(model, image):
        noise = noise.astype(np.float16)
    before, after = (open_quietly(each.SerializeToString())(noise) for each in (model, converted))
    if not all(are_close(b.astype(np.float32), a.astype(np.float32))
               for a, b in zip(before, after, strict=True)):  # fmt: skip
        raise WeightsError(
            f"The file has operators of version {found}, and computes something else with those of "
            f"{OPSET}.",
            f"Export it with opset_version={OPSET}.",
        )
    # what the converter leaves behind
    converted.metadata_props.extend(model.metadata_props)
    converted.producer_name = model.producer_name
    converted.producer_version = model.producer_version
    return _fill_constants(converted)


def _is_half(model: onnx.ModelProto, image: ImageInput) -> bool:
    [item] = [item for item in model.graph.input if item.name == image.name]
    return bool(item.type.tensor_type.elem_type == TensorProto.FLOAT16)


def _use_floats(model: onnx.ModelProto) -> onnx.ModelProto:
    """Let everything be float32 that was float16, which processors compute more slowly."""
    graph = model.graph
    for tensor in graph.initializer:
        _widen(tensor)
    for node in graph.node:
        for item in node.attribute:
            if item.name in ("to", "dtype") and item.i in HALVES:
                item.i = TensorProto.FLOAT
            if item.HasField("t"):
                _widen(item.t)
    for value in (*graph.input, *graph.output):
        if value.type.tensor_type.elem_type in HALVES:
            value.type.tensor_type.elem_type = TensorProto.FLOAT
    graph.ClearField("value_info")
    return model


def _widen(tensor: onnx.TensorProto) -> None:
    if tensor.data_type in HALVES:
        values = numpy_helper.to_array(tensor).astype(np.float32)
        tensor.CopyFrom(numpy_helper.from_array(values, tensor.name))
