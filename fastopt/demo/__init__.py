"""A worked example: a network in plain NumPy, trained on real data with nothing but fastopt's public API.

data.py       the images, split in training and validation
network.py    layers, loss and gradients
train.py      the training loop, and the comparison with fastopt.reference
plot.py       the learning curves
"""
