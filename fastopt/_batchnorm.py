"""Batch normalisation: forward, backward, inference, and the layer as a class."""

import numpy as np

from fastopt._runtime import dispatch
from fastopt._runtime.arrays import Array, require_disjoint
from fastopt._runtime.hyper import Ranges

_ranges = Ranges(momentum="[0, 1]", eps="(0, inf)")


class Layout:
    """An array as outer × channels × inner in memory: `order` transposes it to C order where it is not already."""

    __slots__ = ("channels", "inner", "order", "outer", "shape")

    def __init__(self, x, channel_axis):
        if not isinstance(x, np.ndarray) or x.ndim < 2:
            Array(x, "x")
            raise ValueError(f"x: expected at least 2 dimensions, got shape {np.shape(x)}")
        shape = self.shape = x.shape
        ndim = len(shape)
        if type(channel_axis) is not int or not -ndim <= channel_axis < ndim:
            error = ValueError if type(channel_axis) is int else TypeError
            raise error(f"channel_axis: expected an int in [-{ndim}, {ndim}), got {channel_axis!r}")
        axis = channel_axis % ndim
        self.channels = shape[axis]
        self.order = None
        if ndim == 2:
            self.outer, self.inner = (shape[0], 1) if axis else (1, shape[1])
            return
        if not x.flags.c_contiguous and axis != ndim - 1:
            order = (*range(axis), *range(axis + 1, ndim), axis)
            if x.transpose(order).flags.c_contiguous:   # (N, C, H, W) whose memory is (N, H, W, C)
                self.order = order
        outer = inner = 1
        for size in shape[:axis]:
            outer *= size
        for size in shape[axis + 1 :]:
            inner *= size
        self.outer, self.inner = (outer, inner) if self.order is None else (outer * inner, 1)

    @property
    def count(self):
        """Values of each channel."""
        return self.outer * self.inner

    def empty(self):
        if self.order is None:
            return np.empty(self.shape, np.float32)
        return np.empty([self.shape[axis] for axis in self.order], np.float32).transpose(np.argsort(self.order))

    def array(self, source, name, *, writable=False):
        """`source`, checked: the shape and the layout in memory of x."""
        if self.order is None:
            return Array(source, name, writable=writable, shape=self.shape)
        if isinstance(source, np.ndarray) and source.shape == self.shape:
            turned = source.transpose(self.order)
            if turned.flags.c_contiguous:
                return Array(turned, name, writable=writable)
            raise ValueError(f"{name}: expected the memory layout of x (channels last), "
                             f"got strides {source.strides}")
        return Array(source, name, writable=writable, shape=self.shape)


class BatchNormCache:
    """What `batch_norm_backward` needs of the forward pass: a reference to x, and a few numbers a channel.

    x itself is kept, not a copy: it must still have its values when backward runs. `mean` and `invstd` are float64;
    gamma and beta are copies of the values that forward saw. `release()` lets go of x.
    """

    __slots__ = ("_saved", "layout", "relu", "training", "x")

    def __init__(self, x, layout, saved, training, relu):
        self.x = x
        self.layout = layout
        self._saved = saved
        self.training = training
        self.relu = relu

    @property
    def mean(self):
        return self._saved[0]

    @property
    def invstd(self):
        return self._saved[1]

    @property
    def gamma(self):
        return self._saved[2]

    @property
    def beta(self):
        return self._saved[3]

    @property
    def shape(self):
        return self.layout.shape

    def release(self):
        """Drop the reference to x; backward then refuses this cache."""
        self.x = None


def _same_memory(a, b):
    return a is b or a.__array_interface__["data"][0] == b.__array_interface__["data"][0]


def check_forward(x, gamma, beta, running_mean, running_var, training, momentum, eps, channel_axis, out):
    """Everything that forward refuses; returns the layout and the checked arrays, out made if need be."""
    layout = Layout(x, channel_axis)
    _ranges(momentum, eps)
    a = layout.array(x, "x")
    per_channel = (layout.channels,)
    g, b = Array(gamma, "gamma", shape=per_channel), Array(beta, "beta", shape=per_channel)
    mean = variance = None
    if running_mean is not None or running_var is not None or not training:
        mean = Array(running_mean, "running_mean", writable=training, shape=per_channel)
        variance = Array(running_var, "running_var", writable=training, shape=per_channel)
    if training and layout.count == 1:
        raise ValueError(f"x: expected more than one value per channel in training mode, got shape {layout.shape}")
    y = layout.empty() if out is None else out
    o = layout.array(y, "out", writable=True)
    if out is not None or mean is not None:
        require_disjoint(a, g, b, mean, variance, o)
    return layout, a, g, b, mean, variance, o, y


def batch_norm_forward(x, gamma, beta, running_mean=None, running_var=None, *, training=True, momentum=0.1, eps=1e-5,
                       channel_axis=1, unbiased=True, relu=False, out=None):
    """Normalise every channel of x by its batch statistics; return y and what backward needs.

    For each channel, over its n values::

        mean = Σ x / n,  var = Σ (x − mean)² / n
        y = (x − mean) · (γ / √(var + eps)) + β,    with relu: 0 where y < 0
        running_mean ← (1 − momentum) · running_mean + momentum · mean
        running_var  ← (1 − momentum) · running_var + momentum · var · n / (n − 1)

    Parameters
    ----------
    x : float32 array, at least 2-D
        C-contiguous, or a view of channels-last memory as (N, C, H, W).
    gamma, beta : float32 arrays of shape (channels,)
        Scale and shift.
    running_mean, running_var : float32 arrays of shape (channels,), optional
        Updated in place when training. Without training they are needed, used for mean and var, and stay as they are.
    training : bool
        Normalise by the batch's own statistics.
    momentum : float
        Weight of the new value, in [0, 1], as in PyTorch. Keras' 0.99 is 1 − 0.99 here.
    eps : float
        > 0.
    channel_axis : int
        1 for (N, C) and (N, C, H, W), −1 for channels-last.
    unbiased : bool
        The running variance gets var · n / (n − 1), as in PyTorch; with False var itself, as in Keras. y is always
        normalised by the biased variance.
    relu : bool
        y = max(y, 0), in the same pass.
    out : float32 array of x's shape and memory layout, optional
        Receives y; a new array otherwise. Not x: backward needs it.

    Returns
    -------
    y : float32 array
    cache : BatchNormCache
        Keeps a reference to x, not a copy. Its `mean` and `invstd` are float64.

    Raises
    ------
    TypeError, ValueError
        For an array of another type, shape or layout, read-only or overlapping another; one value per channel in
        training mode; a number out of range. Nothing has been written then.

    Notes
    -----
    Ioffe and Szegedy 2015, algorithm 1, in torch.nn.functional.batch_norm's form. mean, var and 1/√(var + eps) are
    within 1 ULP of exact and kept in double, y is computed in double and rounded once; a constant channel gives beta
    bit for bit. An array without elements is left alone, and so are the running statistics. The bits are those of
    ``fastopt.reference.batch_norm_forward``, whatever the threads and the processor.
    """
    layout, a, g, b, mean, variance, o, y = check_forward(x, gamma, beta, running_mean, running_var, training,
                                                          momentum, eps, channel_axis, out)
    saved = np.empty((4, layout.channels))
    if y.size:
        dispatch.active.batchnorm.forward(
            a, g, b, mean, variance, o, Array(saved, "saved", kind="d", writable=True), layout.outer, layout.channels,
            layout.inner, training=training, momentum=momentum, eps=eps, unbiased=unbiased, relu=relu)
    return y, BatchNormCache(x, layout, saved, training, relu)


def check_backward(dy, cache, out):
    """Everything that backward refuses; returns the checked arrays and those that are written, made if need be."""
    if not isinstance(cache, BatchNormCache):
        raise TypeError(f"cache: expected what batch_norm_forward returned, got {type(cache).__name__}")
    if cache.x is None:
        raise ValueError("cache: expected one that still holds x, got one that was released")
    layout = cache.layout
    dx, dgamma, dbeta = out if isinstance(out, tuple) and len(out) == 3 else (out, None, None)
    x, d = layout.array(cache.x, "cache.x"), layout.array(dy, "dy")
    made = dx is None
    dx = layout.empty() if made else dx
    dgamma = np.empty(layout.channels, np.float32) if dgamma is None else dgamma
    dbeta = np.empty(layout.channels, np.float32) if dbeta is None else dbeta
    o = layout.array(dx, "out", writable=True)
    g = Array(dgamma, "dgamma", writable=True, shape=(layout.channels,))
    b = Array(dbeta, "dbeta", writable=True, shape=(layout.channels,))
    require_disjoint(x, None if not made and _same_memory(dx, dy) else d, o, g, b)
    return x, d, o, g, b, (dx, dgamma, dbeta)


def batch_norm_backward(dy, cache, *, out=None):
    """Gradients of `batch_norm_forward`: dx, dgamma, dbeta.

    With the forward pass's mean and invstd, and dy ← 0 where relu made y 0::

        dbeta = Σ dy,  dgamma = Σ dy · (x − mean) · invstd
        dx = γ · invstd · (dy − dbeta / n − (x − mean) · invstd · dgamma / n)
        dx = γ · invstd · dy                                        after a forward pass with training=False

    Parameters
    ----------
    dy : float32 array of x's shape and memory layout
    cache : BatchNormCache
        What `batch_norm_forward` returned. x must still have the values that forward saw.
    out : float32 array, or a tuple of three (dx, dgamma, dbeta), optional
        Receive the results; dx may be dy itself (then dy is overwritten). None in the tuple: a new array.

    Returns
    -------
    dx : float32 array of x's shape and layout
    dgamma, dbeta : float32 arrays of shape (channels,)

    Raises
    ------
    TypeError, ValueError
        As `batch_norm_forward`; also for a cache that was released or is none. Nothing has been written then.

    Notes
    -----
    Sums in double, every result rounded once. The bits are those of ``fastopt.reference.batch_norm_backward``.
    """
    x, d, o, g, b, results = check_backward(dy, cache, out)
    layout = cache.layout
    if layout.count and layout.channels:
        dispatch.active.batchnorm.backward(
            d, x, Array(cache._saved, "cache", kind="d", writable=True), o, g, b, layout.outer, layout.channels,
            layout.inner, training=cache.training, relu=cache.relu)
    else:
        results[1][...] = results[2][...] = 0.0
    return results


def check_inference(x, gamma, beta, mean, var, eps, channel_axis, out):
    """Everything that inference refuses; returns the layout and the checked arrays, out made if need be."""
    layout = Layout(x, channel_axis)
    _ranges(0.0, eps)
    per_channel = (layout.channels,)
    a = layout.array(x, "x")
    g, b = Array(gamma, "gamma", shape=per_channel), Array(beta, "beta", shape=per_channel)
    m, v = Array(mean, "mean", shape=per_channel), Array(var, "var", shape=per_channel)
    y = layout.empty() if out is None else out
    o = layout.array(y, "out", writable=True)
    if out is not None:
        require_disjoint(None if _same_memory(out, x) else a, g, b, m, v, o)
    return layout, a, g, b, m, v, o, y


def batch_norm_inference(x, gamma, beta, mean, var, *, eps=1e-5, channel_axis=1, relu=False, out=None):
    """Normalise by given statistics: y = (x − mean) · (γ / √(var + eps)) + β, with relu 0 where y < 0.

    Parameters
    ----------
    x, gamma, beta, eps, channel_axis, relu
        As in `batch_norm_forward`.
    mean, var : float32 arrays of shape (channels,)
        Usually running_mean and running_var.
    out : float32 array of x's shape and memory layout, optional
        Receives y; may be x itself. A new array otherwise.

    Returns
    -------
    y : float32 array

    Raises
    ------
    TypeError, ValueError
        As `batch_norm_forward`; nothing has been written then.

    Notes
    -----
    Computed in double and rounded once: the bits of ``fastopt.reference.batch_norm_inference``.
    """
    layout, a, g, b, m, v, o, y = check_inference(x, gamma, beta, mean, var, eps, channel_axis, out)
    if y.size:
        saved = Array(np.empty((4, layout.channels)), "saved", kind="d", writable=True)
        dispatch.active.batchnorm.forward(a, g, b, m, v, o, saved, layout.outer, layout.channels, layout.inner,
                                          training=False, momentum=0.0, eps=eps, unbiased=False, relu=relu)
    return y


class BatchNorm:
    """A batch normalisation layer: ``y = bn.forward(x, training=True)``, ``dx = bn.backward(dy)``.

    Parameters
    ----------
    num_features : int
        Channels.
    eps, momentum, channel_axis, unbiased, relu
        As in `fastopt.batch_norm_forward`.

    Attributes
    ----------
    gamma, beta, dgamma, dbeta, running_mean, running_var : float32 arrays of shape (num_features,)
        The same arrays for the layer's whole life, written in place: an optimizer may hold on to them.

    Notes
    -----
    Between forward and backward the layer holds a reference to x, which must keep its values. backward uses it up.
    """

    _forward = staticmethod(batch_norm_forward)
    _backward = staticmethod(batch_norm_backward)

    def __init__(self, num_features, *, eps=1e-5, momentum=0.1, channel_axis=1, unbiased=True, relu=False):
        if type(num_features) is not int or num_features < 0:
            error = ValueError if type(num_features) is int else TypeError
            raise error(f"num_features: expected an int ≥ 0, got {num_features!r}")
        if type(channel_axis) is not int:
            raise TypeError(f"channel_axis: expected an int, got {channel_axis!r}")
        _ranges(momentum, eps)
        self.num_features = num_features
        self.eps, self.momentum, self.channel_axis = eps, momentum, channel_axis
        self.unbiased, self.relu = unbiased, relu
        self.gamma, self.beta = np.ones(num_features, np.float32), np.zeros(num_features, np.float32)
        self.dgamma, self.dbeta = np.zeros(num_features, np.float32), np.zeros(num_features, np.float32)
        self.running_mean, self.running_var = np.zeros(num_features, np.float32), np.ones(num_features, np.float32)
        self._cache = None

    def forward(self, x, training=True, *, out=None):
        """Return y; with training the running statistics are updated. See `fastopt.batch_norm_forward`."""
        y, self._cache = self._forward(
            x, self.gamma, self.beta, self.running_mean, self.running_var, training=training, momentum=self.momentum,
            eps=self.eps, channel_axis=self.channel_axis, unbiased=self.unbiased, relu=self.relu, out=out)
        return y

    def backward(self, dy, *, out=None):
        """Return dx and write dgamma and dbeta. `out` receives dx and may be dy. Once for each forward."""
        if self._cache is None:
            raise ValueError("backward: expected a forward pass before it, got none since the last backward")
        dx, _, _ = self._backward(dy, self._cache, out=(out, self.dgamma, self.dbeta))
        self._cache = None
        return dx

    def state_dict(self):
        """Copies of gamma, beta, running_mean and running_var."""
        return {name: getattr(self, name).copy() for name in ("gamma", "beta", "running_mean", "running_var")}

    def load_state_dict(self, state):
        """Copy the arrays of a `state_dict` into this layer's; all are checked before the first is written."""
        names = {"gamma", "beta", "running_mean", "running_var"}
        if set(state) != names:
            raise ValueError(f"state: expected the keys {sorted(names)}, got {sorted(map(str, state))}")
        for name in names:
            Array(state[name], name, shape=(self.num_features,))
        for name in names:
            getattr(self, name)[...] = state[name]
