"""Pairwise dots: what einsum gives, with its gradient, from either kernel."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from embeddings.interactions import pairwise_dots
from foundation.tf import tf


@pytest.mark.parametrize("kernel", ["auto", "off"])
@settings(deadline=None, max_examples=40)
@given(st.integers(2, 40), st.integers(0, 9), st.sampled_from([1, 3, 4, 16, 17, 64, 100]), st.integers(0, 99))
def test_every_two_vectors_meet_once(kernel, count, size, dim, seed):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HEADRACE_KERNELS", kernel)
        rng = np.random.default_rng(seed)
        values = rng.normal(size=(count, size, dim)).astype(np.float32)
        upstream = rng.normal(size=(size, count * (count - 1) // 2)).astype(np.float32)
        vectors = [tf.constant(value) for value in values]
        with tf.GradientTape() as tape:
            tape.watch(vectors)
            dots = pairwise_dots(vectors)
        gradients = tape.gradient(dots, vectors, output_gradients=tf.constant(upstream))
    products = np.einsum("ibd,jbd->bij", values.astype(float), values.astype(float))
    lower = np.tril_indices(count, -1)
    np.testing.assert_allclose(dots, products[:, lower[0], lower[1]], rtol=1e-4, atol=1e-4)
    both = np.zeros((size, count, count))
    both[:, lower[0], lower[1]] = upstream
    both += both.transpose(0, 2, 1)
    np.testing.assert_allclose(gradients, np.einsum("bij,jbd->ibd", both, values), rtol=1e-4, atol=1e-4)


def test_what_cannot_meet_is_refused():
    with pytest.raises(ValueError, match="two vectors or more are wanted, not 1"):
        pairwise_dots([tf.ones((2, 3))])
    with pytest.raises(tf.errors.InvalidArgumentError):
        pairwise_dots([tf.ones((2, 3)), tf.ones((2, 4))])
