"""What an encoder is, and the simplest: a bag."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from embeddings.config import Combiner
from foundation.tf import keras, tf


class Encoder(keras.layers.Layer):
    """A user's watch history as a vector, [B, width], or as several interests, [B, interests, width].

    features: the inputs it reads (`history_<item feature>`), of which it gets what `combiner` makes: "mean": each row's
    mean [B, dim]; None: one vector per watched item, oldest first, ragged [B, None, dim].

    Every variable exists after construction; initial values follow the seed. A row's vector depends on nothing of the
    other rows, and an empty history is a zero vector.
    """

    combiner: Combiner | None = None
    interests: int | None = None

    def __init__(self, name: str, features: Sequence[str], width: int) -> None:
        super().__init__(name=name)
        self.features, self.width = tuple(features), width

    def draws(self, rows: tf.Tensor, step: tf.Tensor, first_row: tf.Tensor | int = 0) -> list[tf.Tensor]:
        """What decides dropout in a training step; [] without dropout. rows: [] integer. step: [] int64, seeds it.
        first_row: [] int64, of these rows among the global batch's."""
        return []

    def call(self, histories: Mapping[str, Any], draws: Sequence[tf.Tensor] = ()) -> tf.Tensor:
        """histories: by feature. draws: in training, see `draws`."""
        raise NotImplementedError


class Bag(Encoder):
    """The means of what was watched, side by side (Covington et al., RecSys 2016): order is not seen."""

    combiner = "mean"

    def __init__(self, features: Sequence[str], dim: int) -> None:
        super().__init__("bag", features, len(features) * dim)

    def call(self, histories: Mapping[str, Any], draws: Sequence[tf.Tensor] = ()) -> tf.Tensor:
        return tf.concat([histories[name] for name in self.features], axis=1)
