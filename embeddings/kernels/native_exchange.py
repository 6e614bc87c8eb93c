"""The compiled ops of an exchange behind the twin's functions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from embeddings.kernels.group import Bag
from embeddings.kernels.native_bags import layout_of, tensors_of
from embeddings.kernels.streams import Numbering, Own, Owners, Requests, Stream
from foundation.tf import tf


class NativeExchange:
    """`module`: the loaded library; its sources say how each op works."""

    def __init__(self, module: Any) -> None:
        self._module = module

    def requests(
        self, bags: Sequence[Bag], tables: Sequence[Owners], ranks: int, counted: bool, row_bytes: Sequence[int]
    ) -> Requests:
        """As `reference_requests.requests`."""
        sent, id_splits, splits, places, place_splits, norms = self._module.headrace_requests(
            **tensors_of(bags),
            owners=[table.of_buckets for table in tables],
            common=[table.common for table in tables],
            modulo=[table.modulo for table in tables],
            vocabulary=[-1 if table.vocabulary_size is None else table.vocabulary_size for table in tables],
            row_bytes=list(row_bytes),
            ranks=ranks,
            counted=counted,
            **layout_of(bags),
        )
        for of_table in sent:
            of_table.set_shape([None, 2 if counted else 1])
        for cuts in (id_splits, splits):
            cuts.set_shape([len(tables), ranks + 2])
        routed = []
        for bag, of_bag, cuts, weights in zip(bags, places, place_splits, norms, strict=True):
            if bag.splits is None:
                of_bag.set_shape(bag.ids.shape)
                routed.append(replace(bag, ids=of_bag))
                continue
            of_bag.set_shape([None])
            cuts.set_shape(bag.splits.shape)
            weights.set_shape([None])
            of_combiner = None if bag.combiner == "sum" else weights
            routed.append(replace(bag, ids=of_bag, splits=cuts, weights=of_combiner, combiner="sum"))
        return Requests(sent, id_splits, splits, routed)

    def pack(
        self,
        pieces: Sequence[tf.Tensor],
        piece_of: Sequence[int],
        streams: Sequence[Stream],
        starts: tf.Tensor,
        sizes: tf.Tensor,
        unit: int,
        wire: tf.DType,
        stochastic: bool = False,
    ) -> tf.Tensor:
        """As `reference_exchange.pack`."""
        payload = self._module.headrace_pack(
            pieces=list(pieces),
            starts=starts,
            sizes=sizes,
            Wire=wire,
            piece_of=list(piece_of),
            unit=unit,
            stochastic=stochastic,
            **_columns(streams),
        )
        payload.set_shape([None, unit])
        return payload

    def unpack(self, received: tf.Tensor, streams: Sequence[Stream], sizes: tf.Tensor) -> list[tf.Tensor]:
        """As `reference_exchange.unpack`."""
        plain = tf.float32 if received.dtype.is_floating else received.dtype
        pieces = self._module.headrace_unpack(
            received=received, sizes=sizes, S=len(streams), Plain=plain, **_columns(streams)
        )
        for piece, stream in zip(pieces, streams, strict=True):
            piece.set_shape([None, stream.width])
        return pieces

    def merge(
        self,
        rows: Sequence[tf.Tensor],
        splits: Sequence[tf.Tensor | None],
        received: tf.Tensor,
        streams: Sequence[Stream],
        sizes: tf.Tensor,
        own: Own,
    ) -> tuple[list[tf.Tensor], list[tf.Tensor]]:
        """As `reference_exchange.merge`."""
        distinct, sums = self._module.headrace_merge(
            rows=list(rows),
            splits=[tf.zeros([0], tf.int64) if cuts is None else cuts for cuts in splits],
            received=received,
            sizes=sizes,
            own=list(own.pieces),
            own_starts=own.starts,
            own_of=list(own.piece_of),
            rank=own.rank,
            **_columns(streams),
        )
        for of_stream, summed, stream in zip(distinct, sums, streams, strict=True):
            of_stream.set_shape([None])
            summed.set_shape([None, stream.width])
        return distinct, sums

    def arrived_ids(
        self, received: tf.Tensor, sizes: tf.Tensor, numberings: Sequence[Numbering]
    ) -> tuple[list[tf.Tensor], list[tf.Tensor], list[tf.Tensor | None]]:
        """As `reference_exchange.arrived_ids`."""
        rows, counts, splits = self._module.headrace_arrived_ids(
            received=received,
            sizes=sizes,
            known=[numbering.known for numbering in numberings],
            numbered_by=[numbering.by for numbering in numberings],
            joins=[numbering.joins for numbering in numberings],
        )
        for each in (*rows, *counts, *splits):
            each.set_shape([None])
        joined = [cuts if numbering.joins else None for cuts, numbering in zip(splits, numberings, strict=True)]
        return rows, counts, joined

    def pool(
        self,
        received: tf.Tensor,
        local: Mapping[int, tf.Tensor],
        rank: int,
        streams: Sequence[Stream],
        starts: tf.Tensor,
        sizes: tf.Tensor,
        dims: Sequence[int],
        bags: Sequence[Bag],
    ) -> list[tf.Tensor]:
        """As `reference_exchange.pool`."""
        order = list(local)
        tensors = tensors_of(bags)
        outputs = self._module.headrace_pool(
            received=received,
            local=list(local.values()),
            rank=rank,
            starts=starts,
            sizes=sizes,
            places=tensors.pop("ids"),
            **tensors,
            T=len(dims),
            dims=list(dims),
            table_of_stream=[stream.table for stream in streams],
            local_of=[order.index(s) if s in local else -1 for s in range(len(streams))],
            **_columns(streams),
            **layout_of(bags),
        )
        for output, bag in zip(outputs, bags, strict=True):
            output.set_shape([None, dims[bag.table]])
        return outputs

    def sums(
        self, bags: Sequence[Bag], gradients: Sequence[tf.Tensor], counts: tf.Tensor, dims: Sequence[int]
    ) -> list[tf.Tensor]:
        """As `reference_exchange.sums`: a row's gradients are summed in the order of features, then of positions."""
        tensors = tensors_of(bags)
        found = self._module.headrace_sums(
            places=tensors.pop("ids"),
            **tensors,
            gradients=[tf.convert_to_tensor(gradient) for gradient in gradients],
            counts=counts,
            T=len(dims),
            dims=list(dims),
            **layout_of(bags),
        )
        for of_table, dim in zip(found, dims, strict=True):
            of_table.set_shape([None, dim])
        return found


def _columns(streams: Sequence[Stream]) -> dict[str, list[int]]:
    return {
        "first_columns": [stream.first_column for stream in streams],
        "widths": [stream.width for stream in streams],
    }
