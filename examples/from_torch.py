"""A training that begins in PyTorch, continues in NumPy with fastopt, and returns to PyTorch.

    python examples/from_torch.py --steps 50

Needs fastopt, scikit-learn and torch. Each of the three parts takes `steps` steps on all digits. The same training
without leaving torch follows, and the last line says how far apart the two end.
"""

import argparse
import copy
import sys

import numpy as np
from sklearn.datasets import load_digits

import fastopt

try:
    import torch
except ModuleNotFoundError:
    sys.exit("examples/from_torch.py needs torch: pip install torch")

RULE = {"lr": 0.002, "weight_decay": 0.01}


def train_torch(model, optimizer, x, labels, steps):
    x, labels = torch.from_numpy(x), torch.from_numpy(labels)
    for _ in range(steps):
        loss = torch.nn.functional.cross_entropy(model(x), labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return loss.item()


def train_numpy(params, opt, x, labels, steps):
    w1, b1, w2, b2 = params.values()        # weights in torch's layout, (outputs, inputs)
    for _ in range(steps):
        h, cache = fastopt.activation_forward(x @ w1.T, "relu", b1)
        loss, dh, dw2, db2 = fastopt.linear_cross_entropy(h, w2, labels, b2)
        dz, db1 = fastopt.activation_backward(dh, cache)
        opt.update(params, dict(zip(params, (dz.T @ x, db1, dw2, db2), strict=True)))
    return loss


def main():
    parser = argparse.ArgumentParser(description="Move a training from torch to NumPy and back.")
    parser.add_argument("--steps", type=int, default=50)
    steps = parser.parse_args().steps
    pixels, labels = load_digits(return_X_y=True)
    x = np.asarray(pixels / 16, np.float32)

    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Linear(64, 64), torch.nn.ReLU(), torch.nn.Linear(64, 10))
    stays = copy.deepcopy(model)
    optimizer, other = (torch.optim.AdamW(net.parameters(), **RULE) for net in (model, stays))
    print(f"torch     loss {train_torch(model, optimizer, x, labels, steps):.4f}")

    # To NumPy: the parameters are views of torch's memory, which the updates write; the state is copied.
    params = {name: p.detach().numpy() for name, p in model.named_parameters()}
    opt = fastopt.AdamW(**RULE)
    fastopt.convert.from_torch(opt, optimizer.state_dict(), keys=list(params))
    print(f"fastopt   loss {train_numpy(params, opt, x, labels, steps):.4f}")

    # And back: only the state has to move.
    state = fastopt.convert.to_torch(opt, keys=list(params))
    state["state"] = {i: {name: torch.from_numpy(array) for name, array in entry.items()}
                      for i, entry in state["state"].items()}
    optimizer.load_state_dict(state)
    print(f"torch     loss {train_torch(model, optimizer, x, labels, steps):.4f}")

    train_torch(stays, other, x, labels, 3 * steps)
    apart = max((p - q).abs().max().item() for p, q in zip(model.parameters(), stays.parameters(), strict=True))
    print(f"the parameters end within {apart:.1e} of those of a training that stays in torch")


if __name__ == "__main__":
    main()
