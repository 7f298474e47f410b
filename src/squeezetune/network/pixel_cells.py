"""Pixels of a line read together, as cells of more channels than three, which runtimes read faster
in int8.
"""

from squeezetune.network.onnx_builder import Graph

# So many pixels are one cell of 12 channels, for two outputs of the first convolution.
CELL = 4


def spread_kernel(graph: Graph, codes: str, start: int) -> str:
    """Spread a kernel (outputs, 3, 3, 3) over cells: (2 outputs, 12, 3, 2), which a
    runtime does once.

    A step from cell to cell gives two outputs, of the columns 0 to 2 and 2 to 4 of both cells.
    From column 1 on, with the kernel turned round, it is what the mirror image gives, from
    right to left.
    """
    halves = []
    for column in (start, start + 2):
        around = [0, 0, 0, column, 0, 0, 0, 2 * CELL - 3 - column]
        halves.append(graph.add("Pad", codes, graph.constant(f"columns.{column}", around)))
    parts = graph.add("Concat", *halves, axis=0)  # (2 outputs, colour, row, column)
    parts = graph.add("Reshape", parts, graph.constant("columns.parts", [0, 0, 0, 2, CELL]))
    parts = graph.add(
        "Transpose", parts, perm=[0, 4, 1, 2, 3]
    )  # (2 outputs, pixel, colour, row, cell)
    return graph.add("Reshape", parts, graph.constant("columns.spread", [0, 3 * CELL, 3, 2]))
