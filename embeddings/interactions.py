"""How pooled vectors meet: the dot products of DLRM."""

from __future__ import annotations

from collections.abc import Sequence

from embeddings.kernels import kernels
from foundation.tf import tf


def pairwise_dots(vectors: Sequence[tf.Tensor]) -> tf.Tensor:
    """[B, N * (N - 1) / 2] float32: the dot product of every two of N vectors [B, dim] (cast to float32), in the order
    (1, 0), (2, 0), (2, 1), (3, 0) and so on: the lower triangle of the matrix of products, row by row (DLRM: Naumov et
    al., arXiv 1906.00091, section 2.1.3).

    It takes the outputs of an embedding layer as they are: nothing is stacked, and each product is made once.

    Raises:
      ValueError: fewer than two vectors. tf.errors.InvalidArgumentError: they are not of one shape.
    """
    if len(vectors) < 2:
        raise ValueError(f"pairwise_dots: two vectors or more are wanted, not {len(vectors)}")

    vectors = [tf.cast(vector, tf.float32) for vector in vectors]  # a mixed_float16 layer gives float16

    @tf.custom_gradient
    def dots(*vectors: tf.Tensor):
        def backward(gradient: tf.Tensor) -> list[tf.Tensor]:
            return kernels().dots_gradient(vectors, gradient)

        return kernels().dots(vectors), backward

    return dots(*vectors)
