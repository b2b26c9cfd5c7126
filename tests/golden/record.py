"""Records 100-step trajectories of torch.optim, in float32 and in float64, into trajectories.npz beside this file.

tests/test_golden.py holds fastopt to them and needs no torch. To record anew (with torch 2.13.0, CPU):

    pip install torch==2.13.0 && python tests/golden/record.py

The gradients do not depend on the parameters and are made again from a seed (`gradients`), of PCG64's raw bits, which
NumPy guarantees not to change; all are exact in float32. The file holds for each row of ROWS and each of STEPS the
parameter (or ASGD's average) after the step: `float32` and `float64` of shape (rows, steps, N), and `rows`, their text.
"""

import json
import pathlib

import numpy as np

FILE = pathlib.Path(__file__).with_name("trajectories.npz")
N = 50
STEPS = (1, 2, 3, 10, 30, 100)

ROWS = [
    ("SGD", {"lr": 0.1}),
    ("SGD", {"lr": 0.1, "weight_decay": 0.1, "maximize": True}),
    ("SGD", {"lr": 0.1, "momentum": 0.9}),
    ("SGD", {"lr": 0.1, "momentum": 0.9, "dampening": 0.5, "weight_decay": 0.01}),
    ("SGD", {"lr": 0.01, "momentum": 0.99, "dampening": -0.5, "maximize": True}),
    ("SGD", {"lr": 0.1, "momentum": 0.9, "nesterov": True, "weight_decay": 0.1}),
    ("Adagrad", {}),
    ("Adagrad", {"lr": 0.1, "lr_decay": 0.1, "weight_decay": 0.1}),
    ("Adagrad", {"lr": 0.5, "initial_accumulator_value": 0.3, "maximize": True}),
    ("Adagrad", {"lr": 0.1, "eps": 0.1, "lr_decay": 1.0}),
    ("Adadelta", {}),
    ("Adadelta", {"lr": 0.3, "rho": 0.5, "eps": 1e-3, "weight_decay": 0.1}),
    ("Adadelta", {"rho": 0.99, "eps": 1e-8, "maximize": True}),
    ("RMSprop", {}),
    ("RMSprop", {"lr": 0.1, "alpha": 0.5, "eps": 0.1, "weight_decay": 0.1}),
    ("RMSprop", {"momentum": 0.9, "maximize": True}),
    ("RMSprop", {"centered": True}),
    ("RMSprop", {"lr": 0.001, "centered": True, "momentum": 0.5, "alpha": 0.9, "weight_decay": 0.01}),
    ("Adam", {}),
    ("Adam", {"lr": 0.1, "betas": (0.5, 0.9), "eps": 1e-3, "weight_decay": 0.1}),
    ("Adam", {"lr": 0.01, "amsgrad": True, "betas": (0.9, 0.9)}),
    ("Adam", {"lr": 0.01, "betas": (0.0, 0.999), "maximize": True}),
    ("Adam", {"lr": 0.01, "betas": (0.9, 0.99), "amsgrad": True, "weight_decay": 0.01, "eps": 0.1}),
    ("AdamW", {}),
    ("AdamW", {"lr": 0.1, "weight_decay": 0.5, "betas": (0.8, 0.95)}),
    ("AdamW", {"lr": 0.01, "weight_decay": 0.1, "amsgrad": True, "maximize": True}),
    ("Adamax", {}),
    ("Adamax", {"lr": 0.1, "betas": (0.5, 0.8), "eps": 0.1, "weight_decay": 0.1}),
    ("Adamax", {"betas": (0.95, 0.9999), "maximize": True}),
    ("NAdam", {}),
    ("NAdam", {"lr": 0.05, "betas": (0.5, 0.9), "momentum_decay": 0.1, "eps": 1e-3, "weight_decay": 0.1}),
    ("NAdam", {"lr": 0.01, "weight_decay": 0.5, "decoupled_weight_decay": True, "maximize": True}),
    ("RAdam", {}),
    ("RAdam", {"lr": 0.05, "betas": (0.8, 0.9), "eps": 1e-3, "weight_decay": 0.1}),
    ("RAdam", {"lr": 0.01, "betas": (0.9, 0.99), "weight_decay": 0.5, "decoupled_weight_decay": True,
               "maximize": True}),
    ("ASGD", {}),
    ("ASGD", {"lr": 0.1, "lambd": 0.1, "alpha": 0.5, "weight_decay": 0.1}),
    ("ASGD", {"lr": 0.1, "lambd": 0.01, "t0": 7.0, "maximize": True}),
    ("ASGD", {"lr": 0.1, "lambd": 0.01, "t0": 7.0}, "ax"),
    ("ASGD", {"lr": 0.1}, "ax"),
    ("Rprop", {}),
    ("Rprop", {"lr": 0.1, "etas": (0.3, 1.5), "maximize": True}),
    ("Rprop", {"etas": (0.5, 1.1), "step_sizes": (1e-3, 0.02)}),
]
"""(class, its arguments) and, where it is not the parameter, which state array is recorded."""


def texts():
    """The rows as the file names them."""
    return [json.dumps(row) for row in ROWS]


def start():
    """The parameter before the first step: float64 values that float32 has too."""
    return (np.random.PCG64(1).random_raw(N) >> np.uint64(44)) / 2.0**19 - 1.0


def gradients():
    """A gradient for each step: every element has a scale of its own, a drift and noise; the last one's are 0."""
    raw = (np.random.PCG64(2).random_raw((max(STEPS) + 1) * N) >> np.uint64(44)) / 2.0**19 - 1.0
    drift, noise = raw[:N], raw[N:].reshape(max(STEPS), N)
    scale = 2.0 ** (np.arange(N) % 12 - 8)
    scale[-1] = 0.0
    return scale * (0.5 * drift + noise)


def trajectory(torch, name, options, what, dtype):
    torch.set_default_dtype(dtype)  # also that of torch's step counts and ASGD's and NAdam's scalars
    param = torch.nn.Parameter(torch.from_numpy(start()).to(dtype))
    fused = {"fused": False} if name in ("Adam", "AdamW", "SGD", "Adagrad") else {}
    opt = getattr(torch.optim, name)([param], foreach=False, **fused, **options)
    result = []
    for step, grad in enumerate(gradients(), 1):
        param.grad = torch.from_numpy(grad).to(dtype)
        opt.step()
        if step in STEPS:
            result.append((param if what == "param" else opt.state[param][what]).detach().numpy().copy())
    return result


def main():
    import torch

    both = {dtype: [trajectory(torch, name, options, *(what or ["param"]), getattr(torch, dtype))
                    for name, options, *what in ROWS] for dtype in ("float32", "float64")}
    np.savez_compressed(FILE, rows=np.array(texts()), steps=np.array(STEPS), torch=np.array(torch.__version__), **both)
    print(f"{FILE}: {len(ROWS)} rows, {FILE.stat().st_size} bytes, torch {torch.__version__}")


if __name__ == "__main__":
    main()
