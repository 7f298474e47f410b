"""The bytes of a LiteRT file: any tensors and operators, written in its schema; images stand first
in every shape.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

IDENTIFIER = b"TFL3"
FORMAT_VERSION = 3
ZERO = -128  # the code of 0, where activations follow a ReLU


class TfliteBuilder:
    """A network that is being written; tensors are known by their numbers. A first length of -1 is
    any number.

    What is computed is float32, or with a `scale` int8, whose -128, or another `zero`, stands for 0
    and whose steps for so much each.
    """

    def __init__(self) -> None:
        from ai_edge_litert import schema_py_generated as schema  # an extra

        self._schema: Any = schema
        self._tensors: list[Any] = []
        self._buffers: list[Any] = [
            schema.BufferT()
        ]  # the first one is empty: that of what is computed
        self._operators: list[Any] = []
        self._codes: list[Any] = []

    def shape(self, tensor: int) -> tuple[int, ...]:
        """Return a tensor's lengths, -1 where any number is possible."""
        return tuple(self._tensors[tensor].shapeSignature)

    def scale(self, tensor: int) -> float:
        """Return what a step of a tensor in int8 stands for; 0 if it is no such tensor."""
        quantization = self._tensors[tensor].quantization
        return float(quantization.scale[0]) if quantization else 0.0

    def zero(self, tensor: int) -> int:
        """Return the code of 0 in a tensor in int8."""
        quantization = self._tensors[tensor].quantization
        return int(quantization.zeroPoint[0]) if quantization else ZERO

    def declare(
        self,
        name: str,
        shape: Sequence[int],
        kind: str = "FLOAT32",
        buffer: int = 0,
        quantization: Any = None,
    ) -> int:
        """Add a tensor of some kind of number, as the schema names it."""
        self._tensors.append(
            self._schema.TensorT(
                name=name,
                shape=[abs(length) for length in shape],
                shapeSignature=list(shape),
                type=getattr(self._schema.TensorType, kind),
                buffer=buffer,
                quantization=quantization,
                hasRank=True,
            )
        )
        return len(self._tensors) - 1

    def hold(self, name: str, values: ArrayLike) -> int:
        """Add a tensor of constants: whole numbers, or floats."""
        array = np.asarray(values)
        return self._store(name, array.astype(np.int32 if array.dtype.kind == "i" else np.float32))

    def hold_kernel(self, name: str, values: NDArray[np.float32]) -> int:
        """Add a tensor of constants that are kept as float16."""
        kept = self._store(f"{name} in float16", values.astype(np.float16))
        return self.add("DEQUANTIZE", [kept], values.shape, version=3, name=name)

    def hold_codes(
        self, name: str, values: NDArray[Any], scales: NDArray[np.float32], axis: int = 0
    ) -> int:
        """Add a tensor of whole numbers, int8 or int32, with a scale for each place on an axis."""
        steps = self._schema.QuantizationParametersT(
            scale=scales.tolist(), zeroPoint=[0] * len(scales), quantizedDimension=axis
        )
        return self._store(name, values, steps)

    def _store(self, name: str, array: NDArray[Any], quantization: Any = None) -> int:
        self._buffers.append(self._schema.BufferT(data=np.frombuffer(array.tobytes(), np.uint8)))
        return self.declare(
            name, array.shape, array.dtype.name.upper(), len(self._buffers) - 1, quantization
        )

    def add(
        self,
        operator: str,
        inputs: Sequence[int],
        shape: Sequence[int],
        *,
        version: int = 1,
        name: str = "",
        scale: float = 0.0,
        zero: int = ZERO,
        **options: Any,
    ) -> int:
        """Add an operator by its name in the schema; its options are those of the schema. Returns
        what it gives.
        """
        schema = self._schema
        code = getattr(schema.BuiltinOperator, operator)
        known = [(each.builtinCode, each.version) for each in self._codes]
        if (code, version) not in known:
            known.append((code, version))
            old = min(code, 127)  # what older readers look at
            self._codes.append(
                schema.OperatorCodeT(deprecatedBuiltinCode=old, version=version, builtinCode=code)
            )
        steps = schema.QuantizationParametersT(scale=[scale], zeroPoint=[zero]) if scale else None
        found = self.declare(
            name or f"{operator.lower()} {len(self._operators)}",
            shape,
            "INT8" if scale else "FLOAT32",
            0,
            steps,
        )
        kind = OPTIONS.get(operator, "")
        self._operators.append(
            schema.OperatorT(
                opcodeIndex=known.index((code, version)),
                inputs=list(inputs),
                outputs=[found],
                builtinOptionsType=getattr(schema.BuiltinOptions, kind or "NONE"),
                builtinOptions=getattr(schema, f"{kind}T")(**options) if kind else None,
            )
        )
        return found

    def finish(self, image: int, result: int, description: str) -> bytes:
        """Write the network that leads from an image to a result."""
        import flatbuffers  # comes with LiteRT

        schema = self._schema
        graph = schema.SubGraphT(
            tensors=self._tensors,
            inputs=[image],
            outputs=[result],
            operators=self._operators,
            name="main",
        )
        signature = schema.SignatureDefT(
            inputs=[schema.TensorMapT(name="image", tensorIndex=image)],
            outputs=[schema.TensorMapT(name="probabilities", tensorIndex=result)],
            signatureKey="serving_default",
        )
        model = schema.ModelT(
            version=FORMAT_VERSION,
            signatureDefs=[signature],
            operatorCodes=self._codes,
            subgraphs=[graph],
            buffers=self._buffers,
            description=description,
        )
        builder = flatbuffers.Builder(1 << 22)
        builder.Finish(model.Pack(builder), file_identifier=IDENTIFIER)
        return bytes(builder.Output())


# Operators with options, by the name of those in the schema.
OPTIONS = {
    "ADD": "AddOptions",
    "AVERAGE_POOL_2D": "Pool2DOptions",
    "CONCATENATION": "ConcatenationOptions",
    "CONV_2D": "Conv2DOptions",
    "DEPTHWISE_CONV_2D": "DepthwiseConv2DOptions",
    "FULLY_CONNECTED": "FullyConnectedOptions",
    "HARD_SWISH": "HardSwishOptions",
    "MAX_POOL_2D": "Pool2DOptions",
    "MEAN": "ReducerOptions",
    "MUL": "MulOptions",
    "PAD": "PadOptions",
    "RESIZE_BILINEAR": "ResizeBilinearOptions",
    "SOFTMAX": "SoftmaxOptions",
}
