"""Compiled kernels where there is a compiler, and the pure TensorFlow twin everywhere."""

from embeddings.kernels.choice import Kernels, compiled, kernels, must_be_stock, stock_only

__all__ = ["Kernels", "compiled", "kernels", "must_be_stock", "stock_only"]
