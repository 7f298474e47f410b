"""Small ONNX files as other programs write them, and what ONNX Runtime itself makes of them."""

from functools import reduce

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper
from sessions import open_session

SIDE = 64
WIDTHS = (4, 8, 8, 12, 16)


class ModelWriter:
    """Nodes and constants of a file, by names that do not look like ours."""

    def __init__(self, seed=0):
        self.nodes, self.constants = [], []
        self.rng = np.random.default_rng(seed)

    def add(self, operator, *inputs, outputs=1, domain="", **attributes):
        names = [f"t{len(self.nodes)}.{at}" if at else f"t{len(self.nodes)}"
                 for at in range(outputs)]  # fmt: skip
        node = helper.make_node(operator, list(inputs), names, domain=domain, **attributes)
        self.nodes.append(node)
        return names[0]

    def keep(self, value, dtype=np.int64):
        name = f"c{len(self.constants)}"
        self.constants.append(numpy_helper.from_array(np.asarray(value, dtype), name))
        return name

    def draw(self, *shape):
        size = np.sqrt(2 / np.prod(shape[1:]))
        return self.keep(self.rng.standard_normal(shape) * size, np.float32)

    def convolve(self, x, inputs, outputs, kernel=3, stride=2, activation="Relu"):
        pads = [kernel // 2] * 4
        y = self.add("Conv", x, self.draw(outputs, inputs, kernel, kernel),
                     strides=[stride] * 2, pads=pads)  # fmt: skip
        return self.add(activation, y) if activation else y

    def stages(self, x, widths=WIDTHS):
        """Five convolutions with ReLUs, each halving the side."""
        for inputs, outputs in zip((3, *widths), widths, strict=False):
            x = self.convolve(x, inputs, outputs)
        return x

    def dense(self, x, inputs, outputs):
        weight, bias = self.draw(inputs, outputs), self.draw(outputs, 1)
        return self.add("Gemm", x, weight, self.add("Flatten", bias, axis=0))

    def write(self, *outputs, images=("n", 3, SIDE, SIDE), kind=TensorProto.FLOAT, opset=18,
              ir_version=8, metadata=None, extra=(), domains=()):  # fmt: skip
        """Write a file whose input is `photo`."""
        inputs = [helper.make_tensor_value_info("photo", kind, images), *extra]
        given = [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in outputs]
        graph = helper.make_graph(self.nodes, "theirs", inputs, given, self.constants)
        opsets = [helper.make_opsetid("", opset), *(helper.make_opsetid(d, 1) for d in domains)]
        model = helper.make_model(
            graph, opset_imports=opsets, ir_version=ir_version, producer_name="elsewhere"
        )
        helper.set_model_props(model, metadata or {})
        return model.SerializeToString()


def write_cnn(end="Gemm", classes=10, **options):
    """Write a classifier: five stages, the mean, a dense layer, perhaps a softmax."""
    writer = ModelWriter()
    x = writer.add("GlobalAveragePool", writer.stages("photo"))
    x = writer.dense(writer.add("Flatten", x), WIDTHS[-1], classes)
    x = writer.add("Softmax", x, axis=1) if end == "Softmax" else x
    return writer.write(x, **options)


def change(payload, edit):
    """Change a file by a function of its model."""
    model = onnx.load_from_string(payload)
    edit(model)
    return model.SerializeToString()


def use_halves(payload):
    """Store a file's floats as float16, and compute in them."""

    def edit(model):
        for tensor in model.graph.initializer:
            value = numpy_helper.to_array(tensor)
            if value.dtype == np.float32:
                tensor.CopyFrom(numpy_helper.from_array(value.astype(np.float16), tensor.name))
        for item in (*model.graph.input, *model.graph.output):
            item.type.tensor_type.elem_type = TensorProto.FLOAT16

    return change(payload, edit)


def run_tensors(payload, names, images):
    """Run a file as it is, one image after the other, with tensors within it as its outputs."""

    def edit(model):
        model.graph.ClearField("output")
        model.graph.output.extend(onnx.ValueInfoProto(name=name) for name in names)

    session = open_session(change(payload, edit))
    [image] = session.get_inputs()
    found = [session.run(names, {image.name: images[at : at + 1]}) for at in range(len(images))]
    return [np.concatenate(rows) for rows in zip(*found, strict=True)]


def average(tensor):
    """Take the mean over all axes behind the channels: (n, channels, ...) -> (n, channels)."""
    return tensor.reshape(*tensor.shape[:2], -1).mean(axis=2)


def normalise(pixels, mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225)):
    """Give images as most networks want them: (n, h, w, 3) uint8 -> (n, 3, h, w) float32."""
    values = (pixels / 255 - np.array(mean)) / np.array(std)
    return np.ascontiguousarray(values.transpose(0, 3, 1, 2), np.float32)


def draw_photos(count=3, side=SIDE, seed=0):
    """Draw images with large patches, as photos have: (count, side, side, 3) uint8."""
    cells = np.random.default_rng(seed).integers(0, 256, (count, 8, 8, 3), dtype=np.uint8)
    return reduce(lambda x, axis: x.repeat(-(-side // 8), axis=axis), (1, 2), cells)[
        :, :side, :side
    ]
