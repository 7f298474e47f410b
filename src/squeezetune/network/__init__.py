"""Networks: descriptions, weights, ONNX graphs, and the engines that run them."""
