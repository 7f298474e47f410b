"""The way back through a depth-wise convolution, which oneDNN is slow at in places: as convolutions
that it is fast at.

In bfloat16 it takes the gradient of the input behind steps of two about fifty times as long as the
convolution itself, and the gradient of kernels larger than 3 x 3 up to four hundred times
(docs/decisions/0029-training-lite.md). Both are sums of what it does in a fraction of that.
"""

from squeezetune.finetune.torch_layers import Module, Tensor

# isort: split
# after the module above, which says how to install torch where it is missing
import torch
from torch.nn import functional

# The gradient of kernels up to this size is fast; larger ones are cut into pieces of it.
FAST_KERNEL = 3
# Of the gradients of input, kernels and biases the second.
WANTED = (False, True, False)


def find_input_gradient(layer: Module, gradient: Tensor, maps: Tensor) -> Tensor:
    """Find the gradient of `maps`, (n, channels, height, width), of a depth-wise convolution that
    pads nothing, from that of its output.

    Of the pixels in steps of the stride, each phase is a convolution of the gradient with every so
    many-th row and column of the kernel, turned round.
    """
    stride = layer.stride[0]
    if stride == 1:
        return _convolve_fully(gradient, layer.weight)
    if gradient.dtype == torch.float32:
        # what is slow in bfloat16 is not here
        return reverse_convolution(layer, gradient, maps, (True, False, False), padding=(0, 0))[0]
    count, channels, height, width = maps.shape
    found = gradient.new_zeros(count, height, width, channels).permute(0, 3, 1, 2)
    for top in range(min(stride, layer.kernel_size[0])):
        for left in range(min(stride, layer.kernel_size[1])):
            part = _convolve_fully(gradient, layer.weight[:, :, top::stride, left::stride])
            place = found[:, :, top::stride, left::stride]
            place[:, :, : part.shape[2], : part.shape[3]] = part
    return found


def find_kernel_gradient(layer: Module, gradient: Tensor, maps: Tensor) -> Tensor:
    """Find the gradient of the kernels (channels, 1, height, width) of a depth-wise convolution
    that pads nothing, from `maps` that it read and the gradient of its output.

    A piece of the kernel is a kernel of its own, which reads maps that are cut as far from the top
    and the left.
    """
    if max(layer.kernel_size) <= FAST_KERNEL:
        return reverse_convolution(layer, gradient, maps, WANTED, padding=(0, 0))[1]
    found = torch.empty_like(layer.weight)
    (down, across), size = gradient.shape[2:], FAST_KERNEL
    height, width = ((n - 1) * layer.stride[0] + size for n in (down, across))
    for top in _list_pieces(layer.kernel_size[0]):
        for left in _list_pieces(layer.kernel_size[1]):
            read = maps[:, :, top : top + height, left : left + width]
            read = read.contiguous(memory_format=torch.channels_last)
            piece = layer.weight[:, :, :size, :size].contiguous()
            found[:, :, top : top + size, left : left + size] = reverse_convolution(
                layer, gradient, read, WANTED, kernels=piece, padding=(0, 0)
            )[1]
    return found


def _list_pieces(size: int) -> list[int]:
    """List where the pieces of a kernel of this size begin; the last two may lie over each
    other.
    """
    last = max(0, size - FAST_KERNEL)
    return [*range(0, last, FAST_KERNEL), last]


def _convolve_fully(gradient: Tensor, kernels: Tensor) -> Tensor:
    """Convolve maps with kernels (channels, 1, height, width) that are turned round, each value
    with the whole kernel.
    """
    padding = (kernels.shape[2] - 1, kernels.shape[3] - 1)
    turned = kernels.flip(2, 3).contiguous()
    return functional.conv2d(gradient, turned, padding=padding, groups=len(kernels))


def reverse_convolution(
    layer: Module,
    gradient: Tensor,
    maps: Tensor,
    wanted: tuple[bool, bool, bool],
    *,
    kernels: Tensor | None = None,
    padding: tuple[int, int] | None = None,
) -> tuple[Tensor, Tensor, Tensor]:
    """Find the gradients of maps, kernels and biases of any convolution, as far as they are wanted,
    as torch does; kernels and padding are the layer's own where none are given.
    """
    found: tuple[Tensor, Tensor, Tensor] = torch.ops.aten.convolution_backward(
        gradient,
        maps,
        layer.weight if kernels is None else kernels,
        [len(layer.bias)],
        list(layer.stride),
        list(layer.padding if padding is None else padding),
        [1, 1],
        False,
        [0, 0],
        layer.groups,
        list(wanted),
    )
    return found
