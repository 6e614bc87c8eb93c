"""Lookups that have begun: their ids are where their rows are, before any row is read."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from embeddings.exchange import Routed


@dataclass(frozen=True, eq=False)
class Begun:
    """What `ShardedEmbedding.begin` gives, for one call of the layer in its place. inputs: as they were given. routed:
    None: all is left to the call.

    tf.nest sees its tensors: a loop carries it from one round to the next."""

    inputs: Mapping[str, Any]
    training: bool
    routed: Routed | None

    def __tf_flatten__(self) -> tuple[Any, tuple[Any, ...]]:
        began = self.routed is not None
        return (self.training, began), (dict(self.inputs), self.routed) if began else (dict(self.inputs),)

    @classmethod
    def __tf_unflatten__(cls, metadata: Any, components: tuple[Any, ...]) -> Begun:
        training, began = metadata
        return cls(components[0], training, components[1] if began else None)
