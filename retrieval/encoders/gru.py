"""A history read by a gated recurrent unit."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from foundation.draws import dropout, uniform
from foundation.tf import keras, tf
from retrieval.encoders.config import GruConfig
from retrieval.encoders.encoder import Encoder
from retrieval.encoders.sequences import latest


class Gru(Encoder):
    """The state after the latest item (GRU4Rec: Hidasi et al., "Session-based Recommendations with Recurrent Neural
    Networks", ICLR 2016; Cho et al., EMNLP 2014)."""

    def __init__(self, features: Sequence[str], dim: int, config: GruConfig, seed: int) -> None:
        super().__init__("gru", features, config.units)
        self._dropout, self._seed = config.dropout, seed
        cell = keras.layers.GRUCell(
            config.units,
            kernel_initializer=keras.initializers.GlorotUniform(seed=seed),
            recurrent_initializer=keras.initializers.Orthogonal(seed=seed + 1),
        )
        self._rnn = keras.layers.RNN(cell)
        self._rnn.build((None, None, len(features) * dim))

    def draws(self, rows: tf.Tensor, step: tf.Tensor, first_row: tf.Tensor | int = 0) -> list[tf.Tensor]:
        return [uniform(rows, self.width, first_row, step, self._seed)] if self._dropout else []

    def call(self, histories: Mapping[str, Any], draws: Sequence[tf.Tensor] = ()) -> tf.Tensor:
        """The state passes unchanged over what only fills up a row."""
        vectors, there = latest([histories[name] for name in self.features], None)
        state = self._rnn(vectors, mask=there)
        return dropout(state, self._dropout, draws[0]) if draws else state
