"""The retrieval loss: a softmax of each row's own candidate against its negatives."""

from __future__ import annotations

import math

from foundation.errors import UserError
from foundation.tf import keras, tf
from retrieval.config import RetrievalConfig
from retrieval.frequency import StreamingFrequency
from retrieval.negatives.hard import MASKED, hardest, known_to
from retrieval.negatives.queue import CandidateQueue
from retrieval.negatives.rows import Rows, joined
from strategies import LocalCommunicator, servers_of
from strategies.share import BatchShare, share_of


class RetrievalLoss(keras.layers.Layer):
    """Cross-entropy of each row's own candidate against the other candidates of the global batch, those drawn from the
    catalogue and those of the batches before (`NegativesConfig`); or against the whole catalogue ("full_softmax").

    A logit is an inner product over the temperature. Negatives are sampled, popular items more often than rare ones,
    which would be pushed down for it: the log of how often an item is expected among the negatives is taken from its
    logit (logQ: Yi et al., "Sampling-Bias-Corrected Neural Modeling for Large Corpus Item Recommendations", RecSys
    2019, eq. 3; of a mix of sources it is the sum over sources: Yang et al., "Mixed Negative Sampling for Learning
    Two-tower Neural Networks in Recommendations", WWW 2020). `log_q_of` says whose logits:

        "all"        the positive's own too, as in Yi et al.; how many negatives there are then cancels
        "negatives"  not the positive's own, which was not sampled: the sum over negatives then estimates, without bias,
                     the full softmax's (Khrylchenko et al., "Correcting the LogQ Correction", RecSys 2025)

    An accidental hit, the row's own item from whatever source, is no negative for it: it is masked.

    With `negatives.hard` a second cross-entropy is added, against those that score highest alone and uncorrected
    (online hard negatives: Huang et al., "Embedding-based Retrieval in Facebook Search", KDD 2020, section 6.1.1).

    What the queue holds has no gradient: an item would be pulled to its positives with all its weight, and pushed from
    other queries with that part of the softmax alone which falls on the batch's own candidates. So the gradient of
    these is the larger by as much as there are more negatives than those of the batch (`_scaled_gradient`): rows of
    batches being exchangeable, that is the expected gradient of a queue whose vectors had one. (Such an imbalance is
    why Kim et al., "A Gradient Accumulation Method for Dense Retriever under Memory Constraint", NeurIPS 2024, keep
    queries beside passages.)

    Its state (frequencies, queue) is updated by the whole global batch, so it is the same on every rank.
    """

    def __init__(self, config: RetrievalConfig, items: int, seed: int, name: str = "retrieval_loss") -> None:
        """items: of the catalogue.

        Raises:
          UserError: parameter servers are to hold state that each step must find as the one before left it.
        """
        super().__init__(name=name, autocast=False)
        negatives = config.negatives
        self._full = config.loss == "full_softmax"
        self._corrected = config.log_q != "none" and not self._full
        self._own_too = config.log_q_of == "all"
        self._drawn = bool(negatives.uniform or negatives.popular)
        self._hard, self._hard_weight = negatives.hard, negatives.hard_weight
        if config.remembers and servers_of(tf.distribute.get_strategy()):
            raise UserError(
                f"retrieval.{config.remembers[0]}: goes from step to step, and on parameter servers steps do not wait "
                "for each other.",
                "Leave it out, or choose another strategy.",
            )
        streams = self._corrected and config.log_q == "streaming"
        self.frequency = StreamingFrequency(config.frequency, items, seed) if streams else None
        rows = negatives.queue * config.batch_size
        self.queue = CandidateQueue(rows, config.dim, negatives.queue_after) if rows else None
        self._scale, self._log_temperature = 1.0 / config.starting_temperature, None
        if config.learn_temperature:
            self._log_temperature = self.add_weight(
                name="log_temperature",
                shape=(),
                dtype=tf.float32,
                initializer=keras.initializers.Constant(math.log(config.starting_temperature)),
                experimental_autocast=False,
            )

    def by_row(
        self,
        queries: tf.Tensor,
        own: Rows,
        share: BatchShare | None = None,
        sampled: Rows | None = None,
        sampled_share: BatchShare | None = None,
        known: tf.RaggedTensor | None = None,
        remembers: bool = True,
    ) -> tf.Tensor:
        """[b] what each row adds to the mean over the global batch. A row without an item only fills up its batch: it
        is nobody's negative and adds nothing.

        queries: [b, D]; own: [b], each row's own candidate; share: this rank's of the batch (default: all of it).
        sampled: this rank's [s] of the candidates that all rows share, drawn from the catalogue or all of it;
        sampled_share: of them. known: ragged [b, None] int64, the items that hard negatives are not (default: the
        row's own alone). remembers: frequencies and queue take note of the batch, as they must in training alone.
        """
        share = share or share_of(LocalCommunicator(), tf.shape(own.items)[0])
        batch = own.everywhere(share)
        there = batch.count
        if sampled is not None:
            sampled = sampled.everywhere(sampled_share or share_of(LocalCommunicator(), tf.shape(sampled.items)[0]))
        if self.frequency is not None:
            if remembers:
                self.frequency.update(batch.items)
            own, batch = self._streamed(own), self._streamed(batch)
            sampled = None if sampled is None else self._streamed(sampled)
        pool, of_batches = self._pool(batch, sampled, remembers)
        scale = self._scale if self._log_temperature is None else tf.exp(-self._log_temperature)
        positive = tf.reduce_sum(queries * own.vectors, 1) * scale
        negative = tf.matmul(queries, pool.vectors, transpose_b=True) * scale
        hit = tf.equal(own.items[:, tf.newaxis], pool.items[tf.newaxis, :]) | (pool.items < 0)[tf.newaxis, :]
        corrected, of_own = negative, positive
        if self._corrected:
            corrected -= self._log_expected(pool, of_batches)[tf.newaxis, :]
            if self._own_too:
                of_own -= self._log_expected(own, of_batches)
        losses = _cross_entropy(of_own, tf.where(hit, MASKED, corrected))
        if self._hard:
            excluded = hit if known is None else hit | known_to(known, pool.items)
            losses += self._hard_weight * _cross_entropy(positive, hardest(negative, pool.items, excluded, self._hard))
        return tf.where(own.items >= 0, losses, 0.0) / there

    def _pool(self, batch: Rows, sampled: Rows | None, remembers: bool) -> tuple[Rows, tf.Tensor]:
        """(every row's candidates, how many of them are rows of batches other than its own)."""
        if self._full:
            if sampled is None:
                raise ValueError(f"{self.name}: full_softmax wants the whole catalogue as `sampled`")
            return sampled, batch.count
        parts, of_batches = [batch], batch.count - 1.0
        if self.queue is not None:
            before = self.queue.rows()
            if remembers:
                self.queue.push(batch)
            pushed = batch._replace(vectors=_scaled_gradient(batch.vectors, 1.0 + before.count / of_batches))
            parts, of_batches = [pushed, before], of_batches + before.count
        if sampled is not None:
            parts = [*parts, sampled]
        return joined(parts), of_batches

    def _streamed(self, rows: Rows) -> Rows:
        assert self.frequency is not None
        return rows._replace(log_q=self.frequency.log_q(rows.items))

    def _log_expected(self, rows: Rows, of_batches: tf.Tensor) -> tf.Tensor:
        """[n] the log of how often each item is expected among a row's negatives; without draws, and where it cancels,
        but for a constant."""
        if self._own_too and not self._drawn:
            return rows.log_q
        of_rows = tf.math.log(tf.maximum(of_batches, 1e-6)) + rows.log_q
        return tf.reduce_logsumexp(tf.stack([of_rows, rows.log_draws]), axis=0)


def _scaled_gradient(values: tf.Tensor, scale: tf.Tensor) -> tf.Tensor:
    """The same values, whose gradient is so many times as large. scale: [] float32; one that is not finite is 1."""
    more = tf.where(tf.math.is_finite(scale), scale - 1.0, 0.0)
    return values + more * (values - tf.stop_gradient(values))


def _cross_entropy(positive: tf.Tensor, negative: tf.Tensor) -> tf.Tensor:
    """[b] of the first of logits [b], [b, n]."""
    logits = tf.concat([positive[:, tf.newaxis], negative], 1)
    return tf.nn.sparse_softmax_cross_entropy_with_logits(labels=tf.zeros_like(positive, tf.int32), logits=logits)
