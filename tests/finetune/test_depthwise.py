"""Gradients of depth-wise convolutions against torch's own, in both types of number."""

import pytest

torch = pytest.importorskip("torch")

from squeezetune.finetune.depthwise import find_input_gradient, find_kernel_gradient  # noqa: E402

SHAPES = [
    (kernel, stride, height, width)
    for kernel in (1, 2, 3, 4, 5, 7)
    for stride in (1, 2, 3)
    for height, width in ((9, 9), (12, 9), (10, 13))
]


@pytest.mark.parametrize("precision", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(("kernel", "stride", "height", "width"), SHAPES)
def test_gradients_are_those_of_torch(kernel, stride, height, width, precision):
    torch.manual_seed(kernel + 10 * stride)
    layer = torch.nn.Conv2d(6, 6, kernel, stride, groups=6).to(precision)
    maps = torch.randn(4, 6, height, width).to(precision)
    maps = maps.contiguous(memory_format=torch.channels_last)
    exact = torch.nn.Conv2d(6, 6, kernel, stride, groups=6).double()
    exact.load_state_dict({name: value.double() for name, value in layer.state_dict().items()})
    read = maps.double().requires_grad_()
    output = exact(read)
    gradient = torch.randn(output.shape).to(precision)
    gradient = gradient.contiguous(memory_format=torch.channels_last)
    output.backward(gradient.double())

    with torch.no_grad():
        found = (
            find_input_gradient(layer, gradient, maps),
            find_kernel_gradient(layer, gradient, maps),
        )
    tolerance = 1e-5 if precision is torch.float32 else 0.01
    for ours, theirs in zip(found, (read.grad, exact.weight.grad), strict=True):
        assert ours.dtype == precision
        assert ours.shape == theirs.shape
        scale = float(theirs.abs().max())
        assert float((ours.double() - theirs).abs().max()) <= tolerance * scale
