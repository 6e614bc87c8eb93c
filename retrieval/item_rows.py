"""The rows of a retrieval batch's item inputs: each row's positive, then what is sampled from the catalogue."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from foundation.tf import tf
from retrieval.negatives.rows import Rows
from strategies import Communicator
from strategies.share import BatchShare, share_of, shares_of


class ItemRows(NamedTuple):
    """This rank's positives [b], and its sampled items [s] where there are some. shares: of the global batch's, one or
    both. tf.nest sees their tensors."""

    shares: tuple[BatchShare, ...]

    @classmethod
    def of(cls, communicator: Communicator, batch: Mapping[str, Any]) -> ItemRows:
        """Of a rank's slice of a retrieval batch. One exchange."""
        rows = tf.shape(batch["item_position"])[0]
        if "sampled_position" not in batch:
            return cls((share_of(communicator, rows),))
        return cls(tuple(shares_of(communicator, [rows, tf.shape(batch["sampled_position"])[0]])))

    @property
    def share(self) -> BatchShare:
        return self.shares[0]

    @property
    def sampled_share(self) -> BatchShare | None:
        return self.shares[1] if len(self.shares) == 2 else None

    def drawn(self, draw: Callable[[tf.Tensor, tf.Tensor], Sequence[tf.Tensor]]) -> list[tf.Tensor]:
        """[b + s, ...] each: draws of all rows. draw: (rows, their first's number) -> draws; sampled rows are numbered
        after the global batch's."""
        drawn = list(draw(self._own(self.share), self.share.first))
        if self.sampled_share is None:
            return drawn
        more = draw(self._own(self.sampled_share), self.share.total + self.sampled_share.first)
        return [tf.concat(each, 0) for each in zip(drawn, more, strict=True)]

    def candidates(self, vectors: tf.Tensor, inputs: Mapping[str, Any]) -> tuple[Rows, Rows | None]:
        """Of vectors [b + s, D]: (the positives, what is sampled)."""
        count = tf.shape(inputs["item_position"])[0]
        own = Rows.of(vectors[:count], inputs["item_position"], inputs["log_q"], inputs.get("log_draws"))
        if self.sampled_share is None:
            return own, None
        told = (inputs[name] for name in ("sampled_position", "sampled_log_q", "sampled_log_draws"))
        return own, Rows(vectors[count:], *told)

    @staticmethod
    def _own(share: BatchShare) -> tf.Tensor:
        return share.counts[share.communicator.rank]
