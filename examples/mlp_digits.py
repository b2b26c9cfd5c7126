"""A fully connected network on scikit-learn's digits: Dense, BatchNorm, dropout, a learning-rate schedule.

    python examples/mlp_digits.py --epochs 20

Needs fastopt and scikit-learn. The layers are fastopt's; everything else is NumPy.
"""

import argparse

import numpy as np
from sklearn.datasets import load_digits

import fastopt

BATCH = 32


def forward(layers, x, training):
    for layer in layers:
        x = layer.forward(x, training)
    return x


def main():
    parser = argparse.ArgumentParser(description="Train a fully connected network on 8 x 8 digits.")
    parser.add_argument("--epochs", type=int, default=20)
    epochs = parser.parse_args().epochs
    rng = np.random.default_rng(0)

    pixels, labels = load_digits(return_X_y=True)
    x = np.asarray(pixels / 16, np.float32)     # fastopt's arrays are float32
    order = rng.permutation(len(x))
    train, test = order[360:], order[:360]

    # A Dense ahead of a BatchNorm has no bias: BatchNorm would subtract it again.
    layers = [
        fastopt.Dense(64, 128, bias=False, rng=rng), fastopt.BatchNorm(128, relu=True),
        fastopt.Dropout(0.2, rng),
        fastopt.Dense(128, 64, "relu", dropout=0.1, rng=rng),
        fastopt.Dense(64, 10, rng=rng),
    ]
    params, grads = [layer.params for layer in layers], [layer.grads for layer in layers]

    # The rate rises for 50 updates, then follows half a cosine down to 0.
    steps = epochs * (len(train) // BATCH)
    warmup = min(50, steps // 2)
    lr = fastopt.schedules.join(
        [fastopt.schedules.linear_warmup(0.01, warmup), fastopt.schedules.cosine(0.01, steps - warmup)], [warmup])
    opt = fastopt.AdamW(lr=lr, weight_decay=0.01, clip_norm=1.0)

    for epoch in range(1, epochs + 1):
        rng.shuffle(train)
        losses = []
        for start in range(0, len(train) - BATCH + 1, BATCH):
            batch = train[start:start + BATCH]
            logits = forward(layers, x[batch], training=True)
            loss, d = fastopt.softmax_cross_entropy(logits, labels[batch], out=logits)
            for layer in reversed(layers):
                d = layer.backward(d)       # writes layer.grads
            opt.update(params, grads)       # writes every layer.params, in one call
            losses.append(loss)
        correct = forward(layers, x[test], training=False).argmax(axis=1) == labels[test]
        print(f"epoch {epoch}   loss {np.mean(losses):.4f}   test accuracy {correct.mean():.2%}")


if __name__ == "__main__":
    main()
