"""The optimizer classes in plain NumPy: one call of the family's function for each parameter."""


class Reference:
    """Put before a class of `fastopt`: the same hyper-parameters and state, the arithmetic by `_function`."""

    _function = None

    def _step(self, step, grad_scale, grads):
        for key, param, member, grad in zip(self._keys, self._params, self._members, grads, strict=True):
            hyper = self._groups[member]
            arguments = {**hyper, "lr": self._lr(hyper, step), "grad_scale": grad_scale, **self.state[key]}
            self._function(param, grad.astype(param.dtype, copy=False), **self._arguments(arguments, step))

    @staticmethod
    def _arguments(arguments, step):
        """The function's keyword arguments, given the hyper-parameters and state arrays by name."""
        return arguments
