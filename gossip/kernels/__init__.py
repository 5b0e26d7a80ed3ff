"""Numba kernels: plain arrays in and out. Each has a NumPy twin in the tests as its proof."""
