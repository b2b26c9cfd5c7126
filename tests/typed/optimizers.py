"""Optimizers as a user's program calls them: mypy checks every type here against the installed package."""

from typing import assert_type

import numpy as np
from numpy.typing import NDArray

import fastopt
from fastopt import schedules

Array = NDArray[np.float32]

rng = np.random.default_rng(0)
params: dict[str, Array] = {"w": fastopt.init.he_normal((5, 3), rng), "b": np.zeros(3, np.float32)}
grads: dict[str, Array] = {key: np.ones_like(param) for key, param in params.items()}


def matrices_only(key: str, param: Array) -> dict[str, float]:
    return {} if param.ndim > 1 else {"weight_decay": 0.0}


opt = fastopt.Adam(lr=1e-3, betas=(0.9, 0.99), clip_norm=1.0, average_decay=0.999, per_param=matrices_only)
info = opt.update(params, grads, grad_scale=0.5)
assert_type(info, fastopt.UpdateInfo)
assert_type(info.step, int)
assert_type(info.lr, float)
assert_type(info.grad_norm, float | None)
assert_type(info.skipped, bool)
assert_type(opt.step_count, int)
opt.lr = 1e-4
opt.lr = schedules.cosine(1e-3, 1000)
opt.averages["w"].mean()
opt.state["w"]["m"].sum()
opt.load_state_dict(opt.state_dict())

# Every form of parameters, every kind of learning rate.
fastopt.SGD(lr=0.1, momentum=0.9).update([params["w"], params["b"]], [grads["w"], grads["b"]])
fastopt.SGD(0.1, momentum=0.9, clip_norm_per_param=1.0).update(params, grads)
fastopt.AdamW(schedules.noam(512, 4000), bias_correction=False, average_decay=0.999, average_warmup=True)
fastopt.AdamW(lr=lambda step: 0.1 / step).update(params["w"], grads["w"])
fastopt.Lion(lr=schedules.constant(1e-4)).update(params, {key: np.ones(param.shape) for key, param in params.items()})
optimizers: list[fastopt.Optimizer] = [fastopt.Momentum(), fastopt.RMSprop(), fastopt.LAMB()]

assert_type(fastopt.adam(params["w"], grads["w"], params["w"], params["w"], step=1, lr=0.1, weight_decay=0.01), None)
assert_type(fastopt.sgd(params["w"], grads["w"], lr=0.1), None)
fastopt.Adan(betas=(0.98, 0.92, 0.99), weight_decay=0.02, no_prox=True).update(params, grads)
sophia = fastopt.Sophia(lr=1e-4, rho=0.04)
assert_type(sophia.update_hessian(params, grads), None)
fastopt.sophia(params["w"], grads["w"], params["w"], params["w"], grads["w"], lr=0.1)
fastopt.sophia(params["w"], grads["w"], params["w"], params["w"], None, l1=0.1)

# Errors: mypy would report an unused "type: ignore" here.
fastopt.Adam(lr="0.1")  # type: ignore[arg-type]
fastopt.Adam(beta=0.9)  # type: ignore[call-arg]
fastopt.Adam(1e-3, (0.9, 0.99))  # type: ignore[call-arg]
fastopt.Adam(lr=0.1, per_param={"w": {}})  # type: ignore[arg-type]
opt.update(params)  # type: ignore[call-arg]
opt.update(params, grads, 0.5)  # type: ignore[call-arg]
opt.update({"w": np.zeros(3)}, grads)  # type: ignore[dict-item]
opt.step_count = 3  # type: ignore[misc]
fastopt.sgd(params["w"], grads["w"], 0.1)  # type: ignore[call-arg, arg-type]
fastopt.Adan(betas=(0.98, 0.92))  # type: ignore[arg-type]
sophia.update(params, grads, grads)  # type: ignore[call-arg, arg-type]
fastopt.sgd([0.1], grads["w"], lr=0.1)  # type: ignore[arg-type]

# Nested containers and gradients that are None.
layers = [(params["w"], params["b"]), (params["w"], params["b"])]
opt.update(layers, [(grads["w"], None), (grads["w"], grads["b"])])
opt.update({"layers": layers, "head": {"w": params["w"]}}, {"layers": None, "head": {"w": grads["w"]}})
opt.update(params, {"w": grads["w"], "b": None})
assert_type(opt.update_one("w", params["w"], grads["w"], grad_scale=0.5), fastopt.UpdateInfo)
opt.update_one(("layers", 0), params["w"], None)
opt.update(params, None)  # type: ignore[arg-type]
opt.update([(params["w"], None)], layers)  # type: ignore[list-item]
opt.update_one("w", [params["w"]], grads["w"])  # type: ignore[arg-type]
