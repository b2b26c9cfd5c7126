"""Folding an inference-time BatchNorm into the layer before it."""

import numpy as np

from fastopt._batchnorm import batch_norm_inference, inference_ranges
from fastopt._runtime.arrays import copy_arrays, require_disjoint, require_disjoint_or_same
from fastopt._runtime.channels import Layout
from fastopt._typing import Float32Array


def batch_norm_fold(
    weight: Float32Array, bias: Float32Array | None, gamma: Float32Array, beta: Float32Array, mean: Float32Array,
    var: Float32Array, eps: float = 1e-5, *, output_axis: int = 0,
    out: tuple[Float32Array | None, Float32Array | None] | None = None,
) -> tuple[Float32Array, Float32Array]:
    """Fold an inference-time BatchNorm into the matrix or convolution before it.

    ::

        weight′ = weight · γ / √(var + eps)                 along output_axis
        bias′ = (bias − mean) · γ / √(var + eps) + β

    so that x ∗ weight′ + bias′ is the normalised x ∗ weight + bias.

    Parameters
    ----------
    weight : float32 array, at least 2-D
    bias : float32 array of shape (outputs,), or None for 0
    gamma, beta, mean, var : float32 arrays of shape (outputs,)
        These and bias may have more axes of length 1.
        mean and var are usually the running ones.
    eps : float
        > 0.
    output_axis : int
        The axis of weight that runs over outputs: 0 for (out, in) and (out, in, kh, kw), 1 for ``x @ weight``.
    out : tuple (weight, bias), optional
        Receive the results, and may be weight and bias themselves.

    Returns
    -------
    weight, bias : float32 arrays

    Raises
    ------
    TypeError, ValueError
        As `fastopt.batch_norm_inference`; nothing has been written then.

    Notes
    -----
    Computed as `fastopt.batch_norm_inference` does it: γ / √(var + eps) is rounded once, the rest is float32.
    """
    inference_ranges(eps, False)
    layout = Layout(weight, output_axis, "weight", "output_axis")
    new_weight, new_bias = out if isinstance(out, tuple) and len(out) == 2 else (None, None)
    if out is not None and (not isinstance(out, tuple) or len(out) != 2):
        raise TypeError(f"out: expected a tuple (weight, bias), got {type(out).__name__}")
    read = [layout.vector(array, name) for array, name in ((gamma, "gamma"), (beta, "beta"), (mean, "mean"))]
    read.append(layout.variances(var, "var", eps))
    old = None if bias is None else layout.vector(bias, "bias")
    new_weight = layout.empty() if new_weight is None else new_weight
    new_bias = np.empty(layout.channels, np.float32) if new_bias is None else new_bias
    w, b = layout.array(new_weight, "out[0]", True), layout.vector(new_bias, "out[1]", True)
    require_disjoint_or_same(w, layout.x)
    if old is not None:
        require_disjoint_or_same(b, old)
        require_disjoint(w, old)
    require_disjoint(layout.x, b)
    require_disjoint(w, b, *read)
    zero, minus_zero = np.zeros(layout.channels, np.float32), np.full(layout.channels, -0.0, np.float32)
    # The bias is one more value of each channel; a weight has nothing to subtract, and −0 to add.
    row = (zero if bias is None else np.asarray(bias)).reshape(1, -1)
    made = (new_weight, new_bias) if out is None else (layout.empty(), np.empty(b.shape, np.float32))
    batch_norm_inference(row, gamma, beta, mean, var, eps=eps, out=made[1].reshape(1, -1))
    batch_norm_inference(weight, gamma, minus_zero, zero, var, eps=eps, channel_axis=output_axis, out=made[0])
    if out is not None:     # both at once: an interrupt must not leave only one of them folded
        copy_arrays([w, b], [layout.array(made[0], "weight"), layout.vector(made[1], "bias")])
    return new_weight, new_bias
