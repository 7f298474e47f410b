"""SqueezeNet as ONNX graphs, and the engines that run them."""
