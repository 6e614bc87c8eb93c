"""A plain Keras click model whose keras.layers.Embedding was swapped for ours: `python examples/keras_model.py`.

The lines marked "was" are the model before. Nothing else changes: compile, fit, evaluate, save as before. Both features
look up one table, in one call; Adam trains the dense layers, and the table's own optimizer trains its rows, sparsely,
in the backward pass. Half a minute at most; no download.
"""

from __future__ import annotations

import numpy as np

from embeddings import FeatureConfig, RowWiseAdagrad, ShardedEmbedding, TableConfig
from foundation.tf import keras, tf

USERS, VIDEOS, TOPICS, DIM, HISTORY = 4_000, 2_000, 20, 16, 8


class ClickModel(keras.Model):
    """The probability that a user with a watch history clicks a video."""

    def __init__(self) -> None:
        super().__init__()
        # was: self.embedding = keras.layers.Embedding(VIDEOS, DIM)
        video = TableConfig("video", VIDEOS, DIM, RowWiseAdagrad(0.1))
        self.embedding = ShardedEmbedding({"video_id": FeatureConfig(video), "watch_history": FeatureConfig(video)})
        self.hidden = keras.layers.Dense(32, "relu")
        self.click = keras.layers.Dense(1, "sigmoid")

    def call(self, inputs: dict[str, tf.Tensor | tf.RaggedTensor]) -> tf.Tensor:
        # was: video, history = (self.embedding(inputs[name]) for name in ("video_id", "watch_history"))
        #      history = tf.reduce_mean(history, axis=1)
        vectors = self.embedding(inputs)
        video, history = vectors["video_id"], vectors["watch_history"]
        return self.click(self.hidden(tf.concat([video, history, video * history], axis=1)))


def simulated_clicks(seed: int = 0) -> tuple[dict[str, tf.Tensor | tf.RaggedTensor], np.ndarray]:
    """(inputs, clicks [2 * USERS]): users of one taste each watched videos of it, and click videos of it."""
    rng = np.random.default_rng(seed)
    topic = np.arange(VIDEOS) % TOPICS
    rows = 2 * USERS
    taste = rng.integers(0, TOPICS, rows)
    lengths = rng.integers(1, HISTORY + 1, rows)
    watched = rng.integers(0, VIDEOS // TOPICS, lengths.sum()) * TOPICS + np.repeat(taste, lengths)
    video = np.where(rng.random(rows) < 0.5, rng.integers(0, VIDEOS // TOPICS, rows) * TOPICS + taste, taste)
    video = np.where(rng.random(rows) < 0.5, video, rng.integers(0, VIDEOS, rows))
    clicks = (rng.random(rows) < np.where(topic[video] == taste, 0.9, 0.1)).astype(np.float32)
    history = tf.RaggedTensor.from_row_lengths(watched, lengths)
    return {"video_id": tf.constant(video), "watch_history": history}, clicks


def main() -> None:
    keras.utils.set_random_seed(0)
    inputs, clicks = simulated_clicks()
    data = tf.data.Dataset.from_tensor_slices((inputs, clicks[:, None]))
    train, test = data.take(USERS).batch(128), data.skip(USERS).batch(512)
    model = ClickModel()
    model.compile("adam", "binary_crossentropy", metrics=[keras.metrics.AUC(name="auc")])
    model.fit(train, epochs=10, verbose=2)
    auc = model.evaluate(test, return_dict=True, verbose=0)["auc"]
    print(f"AUC on {USERS:,} impressions kept aside: {auc:.3f} (0.5 is chance, 0.9 the most there is to know)")


if __name__ == "__main__":
    main()
