"""A plain Keras click model whose keras.layers.Embedding was swapped for ours: `python examples/keras_model.py`.

The lines marked "was" are the model before. Nothing else changes: compile, fit, evaluate, save as before. Both features
look up one table, in one call; Adam trains the dense layer, and the table's own optimizer trains its rows, sparsely,
in the backward pass. Half a minute at most; no download.
"""

from __future__ import annotations

import numpy as np

from embeddings import FeatureConfig, RowWiseAdagrad, ShardedEmbedding, TableConfig
from foundation.tf import keras, tf

TRAIN, TEST = 20_000, 5_000  # impressions
VIDEOS, TOPICS, DIM, HISTORY = 500, 20, 16, 8


class ClickModel(keras.Model):
    """The probability that a user with a watch history clicks a video: higher where the two agree."""

    def __init__(self) -> None:
        super().__init__()
        # was: self.embedding = keras.layers.Embedding(VIDEOS, DIM)
        video = TableConfig("video", VIDEOS, DIM, RowWiseAdagrad(0.3))
        self.embedding = ShardedEmbedding({"video_id": FeatureConfig(video), "watch_history": FeatureConfig(video)})
        self.click = keras.layers.Dense(1, "sigmoid")

    def call(self, inputs: dict[str, tf.Tensor | tf.RaggedTensor]) -> tf.Tensor:
        # was: video, history = (self.embedding(inputs[name]) for name in ("video_id", "watch_history"))
        #      history = tf.reduce_mean(history, axis=1)
        vectors = self.embedding(inputs)
        video, history = vectors["video_id"], vectors["watch_history"]
        return self.click(tf.reduce_sum(video * history, axis=1, keepdims=True))


def simulated_clicks(rows: int, seed: int = 0) -> tuple[dict[str, tf.Tensor | tf.RaggedTensor], np.ndarray]:
    """(inputs, clicks [rows]): each history is of one topic, and videos of that topic are the ones clicked."""
    rng = np.random.default_rng(seed)
    taste = rng.integers(0, TOPICS, rows)  # a video's topic is its id modulo TOPICS
    lengths = rng.integers(1, HISTORY + 1, rows)
    watched = rng.integers(0, VIDEOS // TOPICS, lengths.sum()) * TOPICS + np.repeat(taste, lengths)
    topic = np.where(rng.random(rows) < 0.5, taste, rng.integers(0, TOPICS, rows))
    video = rng.integers(0, VIDEOS // TOPICS, rows) * TOPICS + topic
    clicks = rng.random(rows) < np.where(topic == taste, 0.9, 0.1)
    history = tf.RaggedTensor.from_row_lengths(watched, lengths)
    return {"video_id": tf.constant(video), "watch_history": history}, clicks.astype(np.float32)


def main() -> None:
    keras.utils.set_random_seed(0)
    inputs, clicks = simulated_clicks(TRAIN + TEST)
    data = tf.data.Dataset.from_tensor_slices((inputs, clicks[:, None]))
    train, test = data.take(TRAIN).batch(128), data.skip(TRAIN).batch(512)
    model = ClickModel()
    model.compile(keras.optimizers.Adam(0.01), "binary_crossentropy", metrics=[keras.metrics.AUC(name="auc")])
    model.fit(train, epochs=10, verbose=2)
    auc = model.evaluate(test, return_dict=True, verbose=0)["auc"]
    print(f"AUC on {TEST:,} impressions kept aside: {auc:.3f} (0.5 is chance, 0.9 the most there is to know)")


if __name__ == "__main__":
    main()
