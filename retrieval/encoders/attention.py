"""A history read by causal self-attention: SASRec (Kang and McAuley, "Self-Attentive Sequential Recommendation", ICDM
2018)."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from foundation.draws import dropout, uniform
from foundation.tf import keras, tf
from retrieval.encoders.config import AttentionConfig
from retrieval.encoders.encoder import Encoder
from retrieval.encoders.sequences import Mapped, dense, latest, positions

MASKED = -1e9
_DROPOUTS_PER_BLOCK = 2


class SelfAttention(Encoder):
    """The output of SASRec's last block at the latest item.

    Items' vectors times sqrt(units), plus learned positions; then blocks x + dropout(g(layer_norm(x))) with g causal
    attention, then a two-layer feed-forward network (eq. 2 to 6); a last layer norm. A training row is one positive and
    the history before it: of all positions the paper trains at once, each is a row of its own here, so that its user
    features and negatives are those of its time. Of the last block nothing but the latest item's output is read, so
    that is all it computes. Positions count from the latest item, as the paper's padding makes them.
    """

    def __init__(self, features: Sequence[str], dim: int, config: AttentionConfig, seed: int) -> None:
        units = config.units or dim
        super().__init__("attention", features, units)
        self._length, self._dropout, self._seed = config.length, config.dropout, seed
        self._mapped = Mapped("inputs", len(features) * dim, units, seed)
        self._positions = positions(self, config.length, units, seed + 1)
        self._blocks = [_Block(f"block_{i}", units, config.heads, seed + 10 * (i + 1)) for i in range(config.blocks)]
        self._norm = _layer_norm(None, units)
        columns = [config.length] * (1 + _DROPOUTS_PER_BLOCK * (config.blocks - 1)) + [1] * _DROPOUTS_PER_BLOCK
        self._dropped = columns if config.dropout else []

    def draws(self, rows: tf.Tensor, step: tf.Tensor, first_row: tf.Tensor | int = 0) -> list[tf.Tensor]:
        """[rows, length * units] each: by place in the history, whatever other rows' lengths are; of the last block
        [rows, units]."""
        return [
            uniform(rows, columns * self.width, first_row, step, self._seed + 7_919 * i)
            for i, columns in enumerate(self._dropped)
        ]

    def call(self, histories: Mapping[str, Any], draws: Sequence[tf.Tensor] = ()) -> tf.Tensor:
        vectors, there = latest([histories[name] for name in self.features], self._length)
        columns = tf.shape(there)[1]
        mask = there[:, :, tf.newaxis]
        by_place = (tf.reshape(each, [-1, n, self.width]) for each, n in zip(draws, self._dropped, strict=False))
        masks = iter([each[:, -columns:] for each in by_place])

        def dropped(values: tf.Tensor) -> tf.Tensor:
            return dropout(values, self._dropout, next(masks)) if draws else values

        causal = tf.linalg.band_part(tf.ones([columns, columns], tf.bool), -1, 0)
        may_see = tf.logical_and(causal[tf.newaxis], there[:, tf.newaxis, :])
        values = self._mapped(vectors) * math.sqrt(self.width) + self._positions[-columns:]
        values = tf.where(mask, dropped(values), 0.0)
        for block in self._blocks[:-1]:
            values = block(values, may_see, dropped)
        values = self._blocks[-1](values, may_see, dropped, latest_alone=True)
        return tf.where(mask[:, -1], self._norm(values[:, 0]), 0.0)


class _Block(keras.layers.Layer):
    """Attention and a feed-forward network, each behind a layer norm and beside a residual path."""

    def __init__(self, name: str, units: int, heads: int, seed: int) -> None:
        super().__init__(name=name)
        self._heads = heads
        self._norms = [_layer_norm(None, None, units) for _ in range(2)]
        self._query, self._key, self._value = (dense(units, units, seed + i, use_bias=False) for i in range(3))
        self._inner = dense(units, units, seed + 3, activation="relu")
        self._outer = dense(units, units, seed + 4)

    def call(self, values: tf.Tensor, may_see: tf.Tensor, dropped: Any, latest_alone: bool = False) -> tf.Tensor:
        """[B, L, units], or of the last column alone, [B, 1, units]. values: [B, L, units]. may_see: [B, L, L] bool,
        which columns each may attend to. dropped: drops a part."""
        normed = self._norms[0](values)
        keys, seen = self._by_head(self._key(normed)), self._by_head(self._value(normed))
        if latest_alone:
            values, normed, may_see = values[:, -1:], normed[:, -1:], may_see[:, -1:]
        queries = self._by_head(self._query(normed))
        logits = tf.einsum("bqhd,bkhd->bhqk", queries, keys) / math.sqrt(queries.shape[-1])
        shares = tf.nn.softmax(tf.where(may_see[:, tf.newaxis], logits, MASKED))
        attended = tf.reshape(tf.einsum("bhqk,bkhd->bqhd", shares, seen), tf.shape(values))
        values += dropped(attended)
        return values + dropped(self._outer(self._inner(self._norms[1](values))))

    def _by_head(self, values: tf.Tensor) -> tf.Tensor:
        """[B, L, heads, units / heads]"""
        shape = tf.shape(values)
        return tf.reshape(values, [shape[0], shape[1], self._heads, values.shape[-1] // self._heads])


def _layer_norm(*shape: int | None) -> keras.layers.LayerNormalization:
    layer = keras.layers.LayerNormalization(epsilon=1e-6)
    layer.build(shape)
    return layer
