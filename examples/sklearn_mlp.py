"""scikit-learn's MLPClassifier, trained by its own optimizer and by two of fastopt.

    python examples/sklearn_mlp.py --epochs 100

Needs fastopt and scikit-learn. The network, its batches and early stopping are scikit-learn's, the update is fastopt's.
X must be float32, because the network's weights get X's type.
"""

import argparse
import time

import numpy as np
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from sklearn.neural_network import MLPClassifier

import fastopt
from fastopt.adapters.sklearn import use


def main():
    parser = argparse.ArgumentParser(description="Train scikit-learn's MLPClassifier with fastopt's optimizers.")
    parser.add_argument("--epochs", type=int, default=100, help="the most; training stops early")
    epochs = parser.parse_args().epochs
    pixels, labels = load_digits(return_X_y=True)
    x = np.asarray(pixels / 16, np.float32)
    train_x, test_x, train_labels, test_labels = train_test_split(x, labels, test_size=360, random_state=0)

    def network():
        return MLPClassifier((256, 128), learning_rate_init=0.002, batch_size=64, max_iter=epochs, early_stopping=True,
                             random_state=0)

    steps = epochs * (len(train_x) * 9 // 10 // 64 + 1)       # a tenth of the digits is held back for early stopping
    contenders = {
        "scikit-learn's Adam": network(),
        "the same of fastopt": use(network(), fastopt.Adam(lr=0.002, eps_hat=True)),
        "AdamW, cosine": use(network(), fastopt.AdamW(lr=fastopt.schedules.cosine(0.004, steps), weight_decay=0.1,
                                                      clip_norm=1.0)),
    }
    for name, clf in contenders.items():
        start = time.perf_counter()
        clf.fit(train_x, train_labels)
        seconds = time.perf_counter() - start
        accuracy = clf.score(test_x, test_labels)
        print(f"{name:20}   {clf.n_iter_} epochs   {seconds:.1f} s   test accuracy {accuracy:.2%}")


if __name__ == "__main__":
    main()
