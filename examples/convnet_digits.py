"""A convolutional network on scikit-learn's digits: convolution by im2col in NumPy, fastopt for the rest.

    python examples/convnet_digits.py --epochs 4

Needs fastopt and scikit-learn. Images are channels-last, (N, H, W, C), so that patches, matrix products and BatchNorm
work on contiguous arrays without a transposition.
"""

import argparse

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from sklearn.datasets import load_digits

import fastopt


class Conv(fastopt.Dense):
    """A 3 x 3 convolution with padding: a Dense layer on the patch around each pixel, or each `stride`th."""

    def __init__(self, channels, filters, stride, rng):
        super().__init__(9 * channels, filters, bias=False, rng=rng)
        self.stride = stride

    def forward(self, x, training=True):
        self.shape = x.shape
        padded = np.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)))
        windows = sliding_window_view(padded, (3, 3), axis=(1, 2))[:, ::self.stride, ::self.stride]
        patches = windows.transpose(0, 1, 2, 4, 5, 3)       # (N, rows, columns, 3, 3, C)
        return super().forward(patches.reshape(*patches.shape[:3], -1), training)

    def backward(self, dy):
        n, h, w, c = self.shape
        dpatches = super().backward(dy).reshape(*dy.shape[:3], 3, 3, c)
        dx = np.zeros((n, h + 2, w + 2, c), np.float32)
        for i, j in np.ndindex(3, 3):
            dx[:, i:i + h:self.stride, j:j + w:self.stride] += dpatches[:, :, :, i, j]
        return np.ascontiguousarray(dx[:, 1:-1, 1:-1])


def main():
    parser = argparse.ArgumentParser(description="Train a convolutional network on 8 x 8 digits.")
    parser.add_argument("--epochs", type=int, default=4)
    epochs = parser.parse_args().epochs
    rng = np.random.default_rng(0)
    pixels, labels = load_digits(return_X_y=True)
    x = np.asarray(pixels.reshape(-1, 8, 8, 1) / 16, np.float32)
    train, test = np.split(rng.permutation(len(x)), [-360])

    layers = []
    for channels, filters, stride in (1, 16, 1), (16, 32, 2), (32, 64, 2), (64, 64, 2):
        layers += [Conv(channels, filters, stride, rng), fastopt.BatchNorm(filters, channel_axis=-1, relu=True)]
    layers += [fastopt.Dense(64, 10, rng=rng)]      # on (N, 1, 1, 64): each stride of 2 halves 8 x 8 pixels
    params, grads = [layer.params for layer in layers], [layer.grads for layer in layers]
    opt = fastopt.Adam(lr=0.005)

    def logits(images, training):
        for layer in layers:
            images = layer.forward(images, training)
        return images[:, 0, 0]

    for epoch in range(1, epochs + 1):
        rng.shuffle(train)
        for batch in np.array_split(train, len(train) // 64):
            loss, d = fastopt.softmax_cross_entropy(logits(x[batch], training=True), labels[batch])
            d = d[:, None, None]
            for layer in reversed(layers):
                d = layer.backward(d)
            opt.update(params, grads)
        accuracy = np.mean(logits(x[test], training=False).argmax(axis=1) == labels[test])
        print(f"epoch {epoch}   loss {loss:.4f}   test accuracy {accuracy:.2%}")


if __name__ == "__main__":
    main()
