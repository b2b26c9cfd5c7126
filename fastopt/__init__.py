"""Fused optimizer, BatchNorm and softmax kernels for networks trained in plain NumPy."""

__version__ = "0.1.0"
