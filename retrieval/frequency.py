"""How often each item is sampled, estimated while training."""

from __future__ import annotations

from embeddings.hashing import splitmix64, table_key
from foundation.tf import keras, tf
from retrieval.negatives.config import FrequencyConfig
from retrieval.state import state_of


class StreamingFrequency(keras.layers.Layer):
    """Streaming frequency estimation (Yi et al., "Sampling-Bias-Corrected Neural Modeling for Large Corpus Item
    Recommendations", RecSys 2019, Algorithm 2 and its several hash functions). Of each bucket two numbers are kept: A,
    when it last occurred, and B, how long it is between two occurrences on average, B <- (1 - a) B + a (t - A). An
    item's probability is 1 / B, of its bucket with the largest B: a collision can only make B smaller.

    Four things the paper leaves open. Time t counts rows, not batches, so that an item that occurs c times in a batch
    is not taken to occur once: it then takes c updates by a gap of (t - A) / c each, whatever the order of rows. Before
    anything was seen B is the number of items, and that counts as one occurrence. As long as an estimate has fewer than
    1 / rate occurrences a is 1 / (their number), so that B is their mean; from then on a is `rate`. Items that are
    negative fill up a batch and are nothing.

    Its variables are the same on every rank that gives it the whole global batch, and are checkpointed as dense ones.
    """

    def __init__(self, config: FrequencyConfig, items: int, seed: int, name: str = "streaming_frequency") -> None:
        """items: of the catalogue."""
        super().__init__(name=name, autocast=False)
        self._buckets, self._hashes, self._rate = config.buckets, config.hashes, config.rate
        self._keys = [table_key(seed, f"{name}/{number}") for number in range(config.hashes)]
        places = self._hashes * (self._buckets + 1)  # the last bucket of each is for what is nothing
        self._last = state_of(self, "last", [places], tf.int64)
        self._gap = state_of(self, "gap", [places], tf.float32, max(items, 1))
        self._seen = state_of(self, "seen", [places], tf.float32)
        self._rows = state_of(self, "rows", [], tf.int64)

    def update(self, items: tf.Tensor) -> None:
        """Takes note of a whole global batch. items: [B] int64."""
        now = self._rows + tf.math.count_nonzero(items >= 0)
        places = self._places(items)
        in_order = tf.sort(places, axis=1)
        first, after = (tf.searchsorted(in_order, places, side=side) for side in ("left", "right"))
        count = tf.cast(after - first, tf.float32)
        last, gap, seen = (tf.gather(variable, places) for variable in (self._last, self._gap, self._seen))
        observed = tf.cast(now - last, tf.float32) / count
        averaged = tf.clip_by_value(1.0 / self._rate - 1.0 - seen, 0.0, count)
        kept = (seen + 1.0) / (seen + 1.0 + averaged) * tf.pow(1.0 - self._rate, count - averaged)
        gap = kept * gap + (1.0 - kept) * observed
        self._put(self._last, places, tf.fill(tf.shape(places), now))
        self._put(self._gap, places, gap)
        self._put(self._seen, places, tf.minimum(seen + count, 1.0 / self._rate))
        self._rows.assign(now)

    def log_q(self, items: tf.Tensor) -> tf.Tensor:
        """[n] float32: the log of the probability that a row is this item, of items [n] int64."""
        return -tf.math.log(tf.reduce_max(tf.gather(self._gap, self._places(items)), axis=0))

    def _places(self, items: tf.Tensor) -> tf.Tensor:
        """[hashes, n] int32: of each item's buckets in the variables."""
        with tf.device("CPU:0"):  # 64-bit integer products have no kernel elsewhere
            ids = tf.cast(items, tf.uint64)
            of_hash = [splitmix64(ids + tf.constant(key, tf.uint64)) for key in self._keys]
            hashed = tf.cast(tf.stack(of_hash) % tf.constant(self._buckets, tf.uint64), tf.int32)
        buckets = tf.where(items >= 0, hashed, self._buckets)
        return buckets + (tf.range(self._hashes) * (self._buckets + 1))[:, tf.newaxis]

    @staticmethod
    def _put(variable: tf.Variable, places: tf.Tensor, values: tf.Tensor) -> None:
        """What occurs several times has one value."""
        variable.scatter_update(tf.IndexedSlices(tf.reshape(values, [-1]), tf.reshape(places, [-1])))
