"""A TensorFlow Recommenders retrieval model whose two keras.layers.Embedding were swapped for ours:
`python examples/tfrs_retrieval.py`.

The lines marked "was" are the model before. tfrs.tasks.Retrieval, compile, fit and the BruteForce index stay as they
were. The layer is called once a step with the features of both towers. Half a minute at most; no download.
"""

from __future__ import annotations

import numpy as np

from embeddings import FeatureConfig, RowWiseAdagrad, ShardedEmbedding, TableConfig
from foundation.tf import keras, tf

import tensorflow_recommenders as tfrs  # isort: skip - after the gateway, which chooses Keras 2 for it

USERS, VIDEOS, TOPICS, DIM, WATCHES = 1_000, 1_000, 20, 16, 12


class Retrieval(tfrs.Model):
    """Two towers, each an embedding: the dot product is high where a user watches a video."""

    def __init__(self) -> None:
        super().__init__()
        # was: self.user_model = keras.layers.Embedding(USERS, DIM)
        #      self.video_model = keras.layers.Embedding(VIDEOS, DIM)
        optimizer = RowWiseAdagrad(0.3)
        tables = {
            "user_id": TableConfig("user", USERS, DIM, optimizer),
            "video_id": TableConfig("video", VIDEOS, DIM, optimizer),
        }
        self.embedding = ShardedEmbedding({name: FeatureConfig(table) for name, table in tables.items()})
        self.task = tfrs.tasks.Retrieval()

    def compute_loss(self, features: dict[str, tf.Tensor], training: bool = False) -> tf.Tensor:
        # was: return self.task(self.user_model(features["user_id"]), self.video_model(features["video_id"]))
        vectors = self.embedding(features)
        return self.task(vectors["user_id"], vectors["video_id"])


def simulated_watches(seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """(user [n], video [n]): users watch videos of their two topics, each video once, in random order."""
    rng = np.random.default_rng(seed)
    topics = rng.integers(0, TOPICS, (USERS, 2))
    user = np.repeat(np.arange(USERS), WATCHES)
    topic = topics[user, rng.integers(0, 2, len(user))]
    video = rng.integers(0, VIDEOS // TOPICS, len(user)) * TOPICS + topic
    pairs = np.unique(np.stack([user, video], axis=1), axis=0)
    rng.shuffle(pairs)
    return pairs[:, 0], pairs[:, 1]


def hit_rate(model: Retrieval, user: np.ndarray, video: np.ndarray, k: int = 100) -> float:
    """The share of watches whose video is among the k first of VIDEOS for its user."""
    every_video = tf.range(VIDEOS)
    index = tfrs.layers.factorized_top_k.BruteForce(k=k)
    index.index(model.embedding({"video_id": every_video})["video_id"], every_video)
    _, found = index(model.embedding({"user_id": user})["user_id"])
    return float(np.mean(np.any(found.numpy() == video[:, None], axis=1)))


def main() -> None:
    keras.utils.set_random_seed(0)
    user, video = simulated_watches()
    kept = len(user) // 10
    watches = {"user_id": user[kept:], "video_id": video[kept:]}
    data = tf.data.Dataset.from_tensor_slices(watches).shuffle(len(user), seed=0).batch(256)
    model = Retrieval()
    model.compile(optimizer="adagrad")  # trains dense layers, of which this model has none
    model.fit(data, epochs=12, verbose=2)
    rate = hit_rate(model, user[:kept], video[:kept])
    print(f"Hit rate@100 on {kept:,} watches kept aside: {rate:.3f} ({100 / VIDEOS:.2f} is chance)")


if __name__ == "__main__":
    main()
