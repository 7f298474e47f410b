"""What the tensors of a classifier's graph are called, for all who give and read them.

They stand apart from the graph itself, which needs onnx and scipy: prediction and the server do
without.
"""

# The image as it was found, (n, height, width, 3) uint8, and as the network wants it, (n, side,
# side, 3) uint8.
IMAGE, FITTED = "image", "fitted"
