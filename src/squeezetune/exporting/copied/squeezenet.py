"""An image classifier in plain torch: `python squeezenet.py photo.jpg ...`; needs torch,
safetensors, numpy, Pillow.

It reads `config.json` and `model.safetensors` beside it, and is free to be copied and changed. In
Python:

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

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


class Fire(nn.Module):
    """A narrow 1x1 convolution, then 1x1 and 3x3 convolutions side by side."""

    def __init__(self, inputs: int, squeeze: int, expand: int) -> None:
        super().__init__()
        self.squeeze = nn.Conv2d(inputs, squeeze, 1)
        self.expand1x1 = nn.Conv2d(squeeze, expand, 1)
        self.expand3x3 = nn.Conv2d(squeeze, expand, 3, padding=1)

    def forward(self, x: Any) -> Any:
        """Squeeze, expand and join."""
        x = self.squeeze(x).relu()
        return torch.cat([self.expand1x1(x), self.expand3x3(x)], 1).relu()


class Classifier(nn.Module):
    """SqueezeNet with a classifier on the means of the last five Fire modules, or at every position
    of the last.
    """

    def __init__(self, config: dict[str, Any]) -> None:
        super().__init__()
        self.config = config
        (width, side), *layers = config[
            "layers"
        ]  # channels and kernel of the first, then Fire modules and pools
        self.features = nn.ModuleList([nn.Conv2d(3, width, side, stride=2), nn.ReLU()])
        for layer in layers:
            is_pool = layer == "pool"
            self.features.append(
                nn.MaxPool2d(3, 2, ceil_mode=True) if is_pool else Fire(width, *layer)
            )
            width = width if is_pool else 2 * layer[1]
        # inputs, hidden units if any, classes
        self.head = nn.ModuleList(nn.Linear(a, b) for a, b in pairwise(config["head"]))

    def forward(self, images: Any) -> Any:
        """Images (n, height, width, 3) uint8 RGB -> probabilities (n, classes)."""
        views = self.view(self.fit(images))
        x = (views / 255 - views.new_tensor(MEAN)[:, None, None]) / views.new_tensor(STD)[
            :, None, None
        ]
        means = []
        for layer in self.features:
            x = layer(x)
            means += [x.mean((2, 3))] if isinstance(layer, Fire) else []
        if self.config["is_convolved"]:
            logits = self.head[0](x.permute(0, 2, 3, 1)).relu().mean((1, 2))
        else:
            features = torch.cat(means[-5:], 1)
            logits = self.head[0](features.sqrt() if self.config["use_roots"] else features)
            logits = self.head[1](logits.relu()) if len(self.head) > 1 else logits
        return logits.unflatten(0, (self.config["views"], -1)).mean(0).softmax(1)

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
