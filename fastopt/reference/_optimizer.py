"""The optimizer classes in plain NumPy: one call of the family's function for each parameter."""

import numpy as np

from fastopt.reference._common import add_in_order, block_squares


class Reference:
    """Put before a class of `fastopt`: the same hyper-parameters and state, the arithmetic by `_function`."""

    _function = None

    def _step(self, bound, step, lr, grad_scale, grads):
        for key, param, member, grad in zip(bound.keys, bound.params, bound.members, grads, strict=True):
            own, late = bound.groups[member]
            hyper = self._hyper_at(step, own, lr)
            arguments = self._arguments({**hyper, "grad_scale": grad_scale, **bound.state[key]}, step - late)
            self._function(param, grad.astype(param.dtype, copy=False), **arguments)
        self._counter.value = step

    def _squares(self, bound, grads):
        return add_in_order(block for grad in grads for block in block_squares(grad.astype(np.float32, copy=False)))

    @staticmethod
    def _arguments(arguments, step):
        """The function's keyword arguments, given the hyper-parameters and state arrays by name."""
        return arguments


def with_step(arguments, step):
    """For functions that take the step."""
    return {**arguments, "step": step}
