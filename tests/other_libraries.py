"""How a library takes steps: for each module named at the head of a table of docs/from_your_library.md a function.

It gets the module, an expression of the table's first column, float32 parameters, which it may change, and the
gradients of each step, and returns the parameters after them.
"""

import numpy as np


def torch_optim(module, expression, params, steps):
    import torch

    tensors = [torch.from_numpy(param) for param in params]
    opt = eval(expression, vars(module) | {"p": tensors})
    for grads in steps:
        for tensor, grad in zip(tensors, grads, strict=True):
            tensor.grad = torch.from_numpy(grad.copy())
        opt.step()
    return [tensor.numpy() for tensor in tensors]


def keras_optimizers(module, expression, params, steps):
    import keras

    variables = [keras.Variable(param) for param in params]
    opt = eval(expression, vars(module))
    opt.build(variables)
    for grads in steps:
        opt.apply([keras.ops.convert_to_tensor(grad) for grad in grads], variables)
    return [variable.numpy() for variable in variables]


def sklearn_neural_network(module, expression, params, steps):
    """The optimizer that the estimator makes for itself; its gradients are the test's."""
    estimator = eval(f"{expression}.set_params(hidden_layer_sizes=())", vars(module))
    estimator.partial_fit(np.eye(2, dtype=np.float32), [0, 1], classes=[0, 1])
    theirs = estimator._optimizer
    given = {name: value for name, value in vars(theirs).items() if name in ("momentum", "nesterov", "epsilon")}
    opt = type(theirs)(params, learning_rate_init=estimator.learning_rate_init, **given)
    for grads in steps:
        opt.update_params(params, list(grads))
    return params


def optax(module, expression, params, steps):
    import jax

    opt = eval(expression, vars(module))
    state = opt.init(params)
    for grads in steps:
        updates, state = opt.update([jax.numpy.array(grad) for grad in grads], state, params)
        params = module.apply_updates(params, updates)
    return [np.asarray(param) for param in params]


def thinc_api(module, expression, params, steps):
    opt = eval(expression, vars(module))
    for grads in steps:
        for i, grad in enumerate(grads):
            params[i], _ = opt((1, str(i)), params[i], grad.copy())
        opt.step_schedules()
    return params


def common_optimizer(module, expression, params, steps):
    """The first book's take dicts, the second's lists."""
    opt = eval(expression, vars(module))
    lists = hasattr(module, "sys")
    for grads in steps:
        opt.update(params if lists else dict(enumerate(params)), grads if lists else dict(enumerate(grads)))
    return params


def cs231n_optim(module, expression, params, steps):
    name, arguments = expression.rstrip(")").split("(")
    configs = [eval(f"dict({arguments})") for _ in params]
    for grads in steps:
        for i, grad in enumerate(grads):
            params[i], configs[i] = getattr(module, name)(params[i], grad, configs[i])
    return params


class _Parameters(list):
    def params(self):
        return self


def dezero_optimizers(module, expression, params, steps):
    from dezero import Parameter, Variable

    parameters = _Parameters(Parameter(param) for param in params)
    opt = eval(expression, vars(module)).setup(parameters)
    for grads in steps:
        for parameter, grad in zip(parameters, grads, strict=True):
            parameter.grad = Variable(grad)
        opt.update()
    return [parameter.data for parameter in parameters]


STEPS = {"torch.optim": torch_optim, "keras.optimizers": keras_optimizers,
         "sklearn.neural_network": sklearn_neural_network, "optax": optax, "thinc.api": thinc_api,
         "common.optimizer": common_optimizer, "cs231n.optim": cs231n_optim, "dezero.optimizers": dezero_optimizers}


def torch_nn(module, expression, x, labels):
    """What a layer of torch computes in training and then in inference, or a loss."""
    import torch

    layer = eval(expression, vars(module))
    if expression.startswith("CrossEntropyLoss"):
        return [layer(torch.from_numpy(x), torch.from_numpy(labels)).numpy()]
    return [layer.train(training)(torch.from_numpy(x)).detach().numpy() for training in (True, False)]


def keras_layers(module, expression, x, labels):
    layer = eval(expression, vars(module))
    return [np.asarray(layer(x, training=True)) if expression.startswith("Batch") else np.asarray(layer(x)),
            np.asarray(layer(x))]


RESULTS = {"torch.nn": torch_nn, "keras.layers": keras_layers}
