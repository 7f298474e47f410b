"""What stands before the layers in a graph: the resize of images, and their further views."""

from squeezetune.network.float_layers import add_mirror
from squeezetune.network.inference import FITTED
from squeezetune.network.onnx_builder import Graph

KEEP_ASPECT = {"squash": "stretch", "crop": "not_smaller", "pad": "not_larger"}


def add_fit(graph: Graph, image: str, side: int, resize: str) -> str:
    """Add the resize: uint8 in and out, antialiased as Pillow does it."""
    size = graph.constant("side", [side, side])
    resized = graph.add(
        "Resize",
        image,
        "",
        "",
        size,
        name=FITTED if resize == "squash" else "",
        axes=[1, 2],
        mode="linear",
        antialias=1,
        exclude_outside=1,
        coordinate_transformation_mode="half_pixel",
        keep_aspect_ratio_policy=KEEP_ASPECT[resize],
    )
    return (
        resized
        if resize == "squash"
        else graph.add("CenterCropPad", resized, size, name=FITTED, axes=[1, 2])
    )


def add_views(graph: Graph, pixels: str, views: int) -> str:
    """Append the further views of every image behind the batch: (n, h, w, 3) -> (views n, h, w,
    3).
    """
    if views == 1:
        return pixels
    mirrored = add_mirror(graph, pixels)
    return _add_crops(graph, mirrored) if views == 4 else mirrored


def _add_crops(graph: Graph, pixels: str) -> str:
    """Append the middle 85 % of every image, enlarged to its size, behind the batch."""
    size = graph.add("Shape", pixels, start=1, end=3)
    scaled = graph.add("Mul", size, graph.constant("margin.share", [3, 3]))
    margin = graph.add("Div", scaled, graph.constant("margin.whole", [40, 40]))
    ends, axes = graph.add("Sub", size, margin), graph.constant("margin.axes", [1, 2])
    middle = graph.add("Slice", pixels, margin, ends, axes)
    mode = {"mode": "linear", "coordinate_transformation_mode": "half_pixel"}
    return graph.add(
        "Concat", pixels, graph.add("Resize", middle, "", "", size, axes=[1, 2], **mode), axis=0
    )
