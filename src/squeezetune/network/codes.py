"""Parameters as whole numbers of few bits, and how values are rounded to them so that a layer's
output changes least.

Sources: Frantar et al. 2023, "GPTQ: Accurate Post-Training Quantization for Generative Pre-trained
Transformers"; Nagel et al. 2021, "A White Paper on Neural Network Quantization".
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import cholesky, eigh, solve_triangular

Matrix = NDArray[np.float64]
# Shares of a row's largest value that are tried as its largest code: fine codes for many may be
# worth a few cut off.
CLIPS = np.linspace(0.5, 1.0, 26)
# What is added to the diagonal of a Gram matrix, in shares of its mean, so that it can be inverted.
# Much of it where all errors are small, as with eight bits: there is little to make good, and a few
# photos must not be fitted closely.
DAMPING, FINE_DAMPING = 0.01, 1.0
# Biases are added to sums in int32, which they may fill to a half.
LARGEST_BIAS = 2**30
LEAST_SCALE = 1e-12


@dataclass(frozen=True, eq=False)
class QuantizedTensor:
    """Whole numbers of `bits` bits and their scales, float16, which are broadcast over them: their
    product counts.
    """

    values: NDArray[np.int8]
    scales: NDArray[np.float16]
    bits: int

    def decode(self) -> NDArray[np.float32]:
        """Compute the values that stand for the parameters."""
        return self.values.astype(np.float32) * self.scales.astype(np.float32)

    @property
    def byte_count(self) -> int:
        """The size in a file."""
        return -(-self.values.size * self.bits // 8) + self.scales.nbytes


@dataclass(frozen=True, eq=False)
class LowRankTensor:
    """Codes of two matrices, (inputs, rank) and (rank, outputs): a dense layer in less room, their
    product counts.
    """

    first: QuantizedTensor
    second: QuantizedTensor

    def decode(self) -> NDArray[np.float32]:
        """Compute the values that stand for the parameters."""
        product: NDArray[np.float32] = self.first.decode() @ self.second.decode()
        return product


def round_rows(rows: Matrix, gram: Matrix, bits: int, damping: float = DAMPING) -> QuantizedTensor:
    """Round rows (outputs, inputs) to codes (outputs, inputs), each row with a scale of its own.

    `gram` (inputs, inputs) is the sum of x xT over what the layer reads: what a rounded value takes
    away is made good by those that are not rounded yet (GPTQ). Columns of large input come first.
    """
    scales = choose_scales(rows, np.diag(gram), bits)
    order = np.argsort(-np.diag(gram), kind="stable")
    damped = gram[np.ix_(order, order)] + make_ridge(gram, damping)
    carry, rest = _invert_root(damped), rows[:, order].copy()
    top = 2 ** (bits - 1) - 1
    codes = np.empty(rows.shape, np.int8)
    for at in range(len(order)):
        code = np.clip(np.round(rest[:, at] / scales), -top, top)
        codes[:, order[at]] = code
        error = (rest[:, at] - code * scales) / carry[at, at]
        rest[:, at + 1 :] -= np.outer(error, carry[at, at + 1 :])
    return QuantizedTensor(codes, scales[:, None].astype(np.float16), bits)


def factor_rows(
    rows: Matrix, gram: Matrix, weights: Matrix, rank: int, bits: int = 4
) -> LowRankTensor:
    """Round rows (outputs, inputs) to a product of this rank that gives nearly the same outputs.

    `gram` is that of what the layer reads, `weights` (outputs,) says how much each output counts.
    What is kept are the directions in which the outputs differ most (reduced-rank regression:
    Izenman 1975).
    """
    weighted = rows * weights[:, None]
    directions = eigh(
        weighted @ gram @ weighted.T, subset_by_index=[len(rows) - rank, len(rows) - 1]
    )[1]
    first = round_rows(directions.T @ weighted, gram, bits)
    middle = first.decode().astype(np.float64)  # (rank, inputs)
    cross, own = gram @ middle.T, middle @ gram @ middle.T
    second = round_rows(rows @ cross @ np.linalg.inv(own + make_ridge(own, 1e-6)), own, bits)
    return LowRankTensor(transpose(first), transpose(second))


def transpose(codes: QuantizedTensor) -> QuantizedTensor:
    """Turn rows (outputs, inputs) into what a dense layer's weights are, (inputs, outputs)."""
    return QuantizedTensor(codes.values.T.copy(), codes.scales.T.copy(), codes.bits)


def choose_scales(rows: Matrix, power: Matrix, bits: int) -> Matrix:
    """Choose each row's scale (outputs,), one that float16 holds, so that plain rounding costs
    least.

    `power` (inputs,) weighs the squared errors of the columns.
    """
    top = 2 ** (bits - 1) - 1
    largest = np.maximum(np.abs(rows).max(axis=1), 1e-6 * top)
    best, least = largest / top, np.full(len(rows), np.inf)
    for clip in CLIPS:
        scales = np.maximum(
            (clip * largest / top).astype(np.float16), np.finfo(np.float16).tiny
        ).astype(np.float64)
        rounded = np.clip(np.round(rows / scales[:, None]), -top, top) * scales[:, None]
        costs = ((rounded - rows) ** 2) @ (power + DAMPING * power.mean())
        best, least = np.where(costs < least, scales, best), np.minimum(costs, least)
    chosen: Matrix = best
    return chosen


def fit_rows(rows: Matrix, cross: Matrix, gram: Matrix, damping: float = DAMPING) -> Matrix:
    """Fit rows (outputs, inputs) that make of changed inputs what the old rows made of the old
    ones, in least squares.

    `cross` (inputs, inputs) is the sum of old inputs times changed inputs, `gram` that of the
    changed ones with themselves. What the inputs do not tell stays as it was.
    """
    ridge = make_ridge(gram, damping)
    # rows cross + ridge rows = fitted (gram + ridge)
    root = cholesky(gram + ridge, lower=True)
    wanted = rows @ (cross + ridge)
    half = solve_triangular(root, wanted.T, lower=True)
    fitted: Matrix = solve_triangular(root, half, lower=True, trans=1).T
    return fitted


def make_ridge(gram: Matrix, damping: float) -> Matrix:
    """Make the diagonal that lets a Gram matrix be inverted, also one of inputs that are always
    nothing.
    """
    ridge: Matrix = max(damping * float(np.trace(gram)) / len(gram), 1e-12) * np.eye(len(gram))
    return ridge


def pack_nibbles(values: NDArray[np.int8]) -> bytes:
    """Pack codes of four bits, two in a byte, the first in its lower half, as ONNX stores INT4."""
    flat = np.append(values.ravel(), np.zeros(values.size % 2, np.int8)).astype(np.uint8) & 15
    return (flat[0::2] | flat[1::2] << 4).astype(np.uint8).tobytes()


def _invert_root(gram: Matrix) -> Matrix:
    """Compute the upper Cholesky factor of the inverse, whose rows say how an error is made
    good.
    """
    root = cholesky(gram, lower=True)
    inverse_root = solve_triangular(root, np.eye(len(gram)), lower=True)
    upper: Matrix = cholesky(inverse_root.T @ inverse_root, lower=False)
    return upper


def raise_scales(
    codes: NDArray[np.int8], scales: NDArray[np.float32], bias: NDArray[Any], step: float
) -> tuple[NDArray[np.int8], NDArray[np.float32]]:
    """Raise the scales (outputs,) of kernels that are nearly nothing as far as their biases need,
    which are int32 in steps of the scale times `step`, that of what the kernel reads.
    """
    least = np.maximum(np.abs(bias) / (step * LARGEST_BIAS), LEAST_SCALE)
    if np.all(scales >= least):
        return codes, scales
    raised = np.maximum(scales, least).astype(np.float32)
    shares = (scales / raised).reshape(-1, *[1] * (codes.ndim - 1))
    return np.round(codes * shares).astype(np.int8), raised
