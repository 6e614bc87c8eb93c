"""A TensorFlow Recommenders model that keeps its own towers and takes headrace's retrieval loss:
`python examples/tfrs_towers.py`.

The lines marked "was" are the model before. In-batch negatives are popular items; their logits are corrected by
frequencies that the model estimates while it trains, and an item is no negative to its own row. Half a minute at most;
no download.
"""

from __future__ import annotations

import numpy as np

from foundation.tf import keras, tf
from retrieval.config import RetrievalConfig
from retrieval.tfrs_model import RetrievalModel

USERS, VIDEOS, TOPICS, DIM, WATCHES = 1_000, 1_000, 20, 16, 12


class Tower(keras.Model):
    """Somebody's tower: the embedding of one feature, and a layer."""

    def __init__(self, feature: str, size: int) -> None:
        super().__init__()
        self.feature = feature
        self.table = keras.layers.Embedding(size, 32)
        self.last = keras.layers.Dense(DIM)

    def call(self, features: dict[str, tf.Tensor], training: bool | None = None) -> tf.Tensor:
        return self.last(self.table(features[self.feature]))


def simulated_watches(seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """(user [n], video [n]): users watch videos of their two topics, some videos far more than others, each once."""
    rng = np.random.default_rng(seed)
    topics = rng.integers(0, TOPICS, (USERS, 2))
    user = np.repeat(np.arange(USERS), WATCHES)
    topic = topics[user, rng.integers(0, 2, len(user))]
    popularity = 1 / np.arange(1, VIDEOS // TOPICS + 1)
    drawn = rng.choice(VIDEOS // TOPICS, len(user), p=popularity / popularity.sum())
    pairs = np.unique(np.stack([user, drawn * TOPICS + topic], axis=1), axis=0)
    rng.shuffle(pairs)
    return pairs[:, 0], pairs[:, 1]


def hit_rate(model: RetrievalModel, user: np.ndarray, video: np.ndarray, k: int = 50) -> float:
    """The share of watches whose video is among the k first of VIDEOS for its user."""
    every_video = model.embed_candidates({"video_id": tf.range(VIDEOS)}).numpy()
    scores = model.embed_queries({"user_id": user}).numpy() @ every_video.T
    found = np.argsort(-scores, axis=1)[:, :k]
    return float(np.mean(np.any(found == video[:, None], axis=1)))


def main() -> None:
    keras.utils.set_random_seed(0)
    user, video = simulated_watches()
    kept = len(user) // 10
    watches = {"user_id": user[kept:], "video_id": video[kept:]}
    data = tf.data.Dataset.from_tensor_slices(watches).shuffle(len(user), seed=0).batch(256)
    # was: a tfrs.Model of these two towers and self.task = tfrs.tasks.Retrieval()
    towers = Tower("user_id", USERS), Tower("video_id", VIDEOS)
    config = RetrievalConfig(log_q="streaming", dim=DIM)
    model = RetrievalModel(*towers, items=VIDEOS, item="video_id", config=config)
    model.compile(optimizer=keras.optimizers.Adam(0.01))
    model.fit(data, epochs=8, verbose=2)
    rate = hit_rate(model, user[:kept], video[:kept])
    print(f"Hit rate@50 on {kept:,} watches kept aside: {rate:.3f} ({50 / VIDEOS:.2f} is chance)")


if __name__ == "__main__":
    main()
