"""A worked example: a network in plain NumPy, trained on real data with fastopt's public API alone.

data.py       the digits, split
network.py    layers, loss and gradients
train.py      the loop, and the comparison with fastopt.reference
plot.py       the learning curves
"""
