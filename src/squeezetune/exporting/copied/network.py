"""An image classifier in plain torch: `python network.py photo.jpg ...`; needs torch, safetensors,
numpy, Pillow.

It reads `config.json`, which lists the network's layers, and `model.safetensors` beside it, and is
free to be copied and changed. In Python:

    network = load("this folder")
    probabilities = network(images)  # (n, height, width, 3) uint8 RGB of any size -> (n, classes)
"""

import json
import sys
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageOps
from safetensors.torch import load_file
from torch import nn
from torch.nn import functional

ACTIVATIONS: dict[str, Any] = {
    "": lambda x: x,
    "relu": functional.relu,
    "relu6": functional.relu6,
    "sigmoid": torch.sigmoid,
    "hard_sigmoid": functional.hardsigmoid,
    "hard_swish": functional.hardswish,
}
# What layers without parameters make of maps, (n, channels, height, width).
KINDS: dict[str, Any] = {
    "max_pool": lambda layer, x: functional.max_pool2d(
        x, layer["kernel"], layer["stride"], layer["padding"], ceil_mode=layer["is_ceil"]
    ),
    "average_pool": lambda layer, x: functional.avg_pool2d(
        x, layer["kernel"], layer["stride"], layer["padding"]
    ),
    "global_mean": lambda layer, x: x.mean((2, 3), keepdim=True),
    "join": lambda layer, *maps: torch.cat(maps, 1),
    "sum": lambda layer, *maps: sum(maps),
    "product": lambda layer, x, gates: x * gates,
}


class SameConv2d(nn.Conv2d):
    """A convolution with TensorFlow's padding: where its sum is odd, one more behind than
    before.
    """

    def forward(self, x: Any) -> Any:
        """Pad and convolve."""
        margins = []  # left, right, top, bottom
        for axis in (1, 0):
            length, stride = x.shape[2 + axis], self.stride[axis]
            whole = max((-(-length // stride) - 1) * stride + self.kernel_size[axis] - length, 0)
            margins += [whole // 2, whole - whole // 2]
        return super().forward(functional.pad(x, margins))


class Classifier(nn.Module):
    """A network as it is listed, with a classifier on the means of the maps that are tapped, or at
    every position of the last.
    """

    def __init__(self, config: dict[str, Any]) -> None:
        super().__init__()
        self.config = config
        # where each map is read for the last time
        self.last_reads = {name: at for at, layer in enumerate(config["layers"])
                           for name in layer["reads"]}  # fmt: skip
        for layer in config["layers"]:
            if layer["kind"] == "convolution":
                self.add_convolution(layer)
        # inputs, hidden units if any, classes
        self.head = nn.ModuleList(nn.Linear(a, b) for a, b in pairwise(config["head"]))

    def add_convolution(self, layer: dict[str, Any]) -> None:
        """Add a convolution at its path, such as `blocks.0.conv`."""
        is_same = layer["padding"] == "same"
        convolution = (SameConv2d if is_same else nn.Conv2d)(
            *layer["channels"],
            layer["kernel"],
            layer["stride"],
            0 if is_same else layer["padding"],
            groups=layer["groups"],
        )
        parent: Any = self
        *places, name = layer["path"].split(".")
        for place in places:
            if not hasattr(parent, place):
                parent.add_module(place, nn.Module())
            parent = getattr(parent, place)
        parent.add_module(name, convolution)

    def forward(self, images: Any) -> Any:
        """Images (n, height, width, 3) uint8 RGB -> probabilities (n, classes)."""
        views = self.view(self.fit(images))
        mean, std = (views.new_tensor(self.config[name])[:, None, None] for name in ("mean", "std"))
        x, features = self.run((views / 255 - mean) / std)
        if self.config["is_convolved"]:
            logits = self.head[0](x.permute(0, 2, 3, 1)).relu().mean((1, 2))
        else:
            # features may be below 0: their roots keep the sign
            roots = features.sign() * features.abs().sqrt()
            logits = self.head[0](roots if self.config["use_roots"] else features)
            logits = self.head[1](logits.relu()) if len(self.head) > 1 else logits
        return logits.unflatten(0, (self.config["views"], -1)).mean(0).softmax(1)

    def run(self, pixels: Any) -> tuple[Any, Any]:
        """Run the layers on normalised images (n, 3, side, side): the last map, and the features
        (n, features).
        """
        maps, means = {"pixels": pixels}, {}
        for at, layer in enumerate(self.config["layers"]):
            inputs = [maps[name] for name in layer["reads"]]
            if layer["kind"] == "convolution":
                x = self.get_submodule(layer["path"])(*inputs)
            else:
                x = KINDS[layer["kind"]](layer, *inputs)
            x = ACTIVATIONS[layer["activation"]](x)
            if layer["output"] in self.config["taps"]:
                means[layer["output"]] = x.mean((2, 3))
            # maps that are still read are kept, the others give their memory back
            maps = {name: map_ for name, map_ in maps.items() if self.last_reads[name] > at}
            if layer["output"] in self.last_reads:
                maps[layer["output"]] = x
        return x, torch.cat(list(means.values()), 1)

    def fit(self, images: Any) -> Any:
        """Resize (n, height, width, 3) uint8 to squares (n, 3, side, side), antialiased, in whole
        grey levels.
        """
        lengths = [torch.full((), length) for length in images.shape[1:3]]
        extents = {
            "squash": lengths,
            "crop": [torch.minimum(*lengths)] * 2,
            "pad": [torch.maximum(*lengths)] * 2,
        }
        rows, columns = (
            self.weigh(torch.arange(count), length, extent)
            for count, length, extent in zip(
                images.shape[1:3], lengths, extents[self.config["resize"]], strict=True
            )
        )
        return (rows @ images.permute(0, 3, 1, 2).float() @ columns.T).round()

    def weigh(self, pixels: Any, length: Any, extent: Any) -> Any:
        """Weigh the pixels of an axis for every line of the square, scaled by side / extent and put
        into its middle.
        """
        side = self.config["image_side"]
        size = (2 * side * length + extent) // (2 * extent)
        is_kept = size == length  # then this axis is left alone
        part, whole = torch.where(is_kept, 1, side), torch.where(is_kept, 1, extent)
        lines = torch.arange(side)[:, None] + torch.div(size - side, 2, rounding_mode="trunc")
        distance = ((2 * pixels + 1) * part - (2 * lines + 1) * whole).abs()
        weights = (2 * torch.maximum(part, whole) - distance).clamp(min=0) * (
            (lines >= 0) & (lines < size)
        )
        return weights.float() / weights.sum(1, keepdim=True).clamp(min=1).float()

    def view(self, x: Any) -> Any:
        """Append the mirror images, and the middle 85 % of both."""
        views, side = self.config["views"], self.config["image_side"]
        x = torch.cat([x, x.flip(3)]) if views >= 2 else x
        if views == 4:
            margin = 3 * side // 40
            middle = x[:, :, margin : side - margin, margin : side - margin]
            x = torch.cat(
                [x, functional.interpolate(middle, size=(side, side), mode="bilinear").floor()]
            )
        return x


def load(folder: str | Path) -> Classifier:
    """Load a classifier from its folder."""
    network = Classifier(json.loads((Path(folder) / "config.json").read_text(encoding="utf-8")))
    network.load_state_dict(load_file(Path(folder) / "model.safetensors"))
    network.eval()
    return network


if __name__ == "__main__":
    network = load(Path(__file__).parent)
    for name in sys.argv[1:]:
        image = np.asarray(ImageOps.exif_transpose(Image.open(name)).convert("RGB"))
        with torch.inference_mode():
            [row] = network(torch.tensor(image)[None]).tolist()
        print(f"{name}\t{network.config['class_names'][row.index(max(row))]}\t{max(row):.4f}")
