"""A history as several interests."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from foundation.tf import tf
from retrieval.encoders.attention import MASKED
from retrieval.encoders.config import MultiInterestConfig
from retrieval.encoders.encoder import Encoder
from retrieval.encoders.sequences import Mapped, dense, latest, positions


class MultiInterest(Encoder):
    """ComiRec-SA (Cen et al., "Controllable Multi-Interest Framework for Recommendation", KDD 2020, eq. 7 and 8):
    interest k is the mean of the watched items weighted by softmax(w_k tanh(W (h + p))) over the history, p being
    learned positions. Several vectors a query, as in MIND (Li et al., CIKM 2019): `retrieval.interests` says how they
    are trained and searched."""

    def __init__(self, features: Sequence[str], dim: int, config: MultiInterestConfig, seed: int) -> None:
        units = config.units or dim
        super().__init__("multi_interest", features, units)
        self.interests = config.interests
        self._length = config.length
        self._mapped = Mapped("inputs", len(features) * dim, units, seed)
        self._positions = positions(self, config.length, units, seed + 1)
        self._hidden = dense(units, config.attention_units, seed + 2, activation="tanh")
        self._belongs = dense(config.attention_units, config.interests, seed + 3, use_bias=False)

    def call(self, histories: Mapping[str, Any], draws: Sequence[tf.Tensor] = ()) -> tf.Tensor:
        vectors, there = latest([histories[name] for name in self.features], self._length)
        mask = there[:, :, tf.newaxis]
        items = tf.where(mask, self._mapped(vectors), 0.0)
        logits = self._belongs(self._hidden(items + self._positions[-tf.shape(there)[1] :]))
        shares = tf.nn.softmax(tf.where(mask, logits, MASKED), axis=1)
        return tf.einsum("blm,bld->bmd", shares, items)
