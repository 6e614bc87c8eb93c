"""Compiled kernels where there is a compiler, and the pure TensorFlow twin everywhere."""

from embeddings.kernels.choice import Kernels, compiled, kernels, stock_only

__all__ = ["Kernels", "compiled", "kernels", "stock_only"]
