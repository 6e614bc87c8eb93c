"""The update fused into the backward pass, and the checks that it happens once per step."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, TypeAlias

from embeddings.kernels import kernels, reference
from embeddings.kernels.group import Bag, TableGroup
from embeddings.local import by_group
from embeddings.tables.dynamic import growing
from foundation.tf import is_watched, tf

if TYPE_CHECKING:
    from embeddings.exchange import Exchange
    from embeddings.kernels.group import Table
    from embeddings.local import LocalTables
    from embeddings.parameter_server import ServerTables

    Tables: TypeAlias = LocalTables | Exchange | ServerTables

MOST_SKIPPED = 200  # steps in a row that a loss scale may skip before we say that none is ever committed

TWICE = (
    "ShardedEmbedding: its tables changed between this step's forward and backward pass. Either a gradient was asked "
    "twice, or the layer was called twice in one step: call it once, with all features, and differentiate once."
)
NEVER = (
    "ShardedEmbedding: the last call with training=True was never differentiated with respect to "
    "`gradient_trap`, so its tables stood still. Differentiate with respect to model.trainable_variables, and call the "
    "layer with training=False where no training is meant."
)
_NO_SCALE = (
    "ShardedEmbedding: the loss scale of mixed_float16 is unknown: add sum(model.losses) to the loss before scaling it."
)
_NOT_COMMITTED = (
    "ShardedEmbedding: no step was committed for a long time. Under mixed_float16 the tables are updated when a Keras "
    "optimizer has applied the gradient of `gradient_trap`; the loss is never finite, or another optimizer is used."
)


class FusedUpdate:
    """Lookups whose backward pass updates the tables. With `scaled` (mixed_float16) the backward pass only keeps the
    summed gradients; `commit`, the trap weight's Keras constraint, applies them: an optimizer calls it after each step
    that it does not skip."""

    def __init__(self, tables: Mapping[str, Table], dynamic: Mapping[int, str], scaled: bool) -> None:
        """dynamic: the names of dynamic tables, by their places among a bag's `table`."""
        self._dynamic, self._scaled = dynamic, scaled
        self._version = _counter("version")  # backward passes made
        self._awaiting = tf.Variable(False, trainable=False, name="awaiting")
        self.variables = [self._version, self._awaiting]
        self.transient: dict[str, tf.Variable] = {}  # of no worth after a step
        if scaled:
            self._waiting = _Waiting(tables)
            self.transient = self._waiting.variables

    def lookup(
        self, trap: tf.Variable, tables: Tables, dist: Any, bags: list[Bag], training: bool
    ) -> tuple[list[tf.Tensor], tf.Tensor]:
        """[B, dim] of each bag, and a zero whose gradient is the loss scale. dist: what the tables' `input_dist` gave
        for these bags."""
        # weights that a gradient may be asked for: only for them are the rows read again in the backward pass
        learned = [place for place, bag in enumerate(bags) if bag.weights is not None and is_watched(bag.weights)]

        @tf.custom_gradient
        def trapped(trap_value: tf.Tensor, *_: tf.Tensor):
            opened = self._open()
            outputs = tables.output_dist(dist, bags)

            def backward(*upstream: tf.Tensor) -> tuple[tf.Tensor, ...]:
                if not training:
                    asked = sorted({bag.table for bag in bags})
                    _refuse_dynamic([self._dynamic[place] for place in asked if place in self._dynamic])
                *gradients, scale = upstream
                self._close(opened)
                of_weights = []
                for place in learned:
                    group, bag = dist.of(place)
                    of_weights.append(reference.gradient_of_weights(group, bag, outputs[place], gradients[place]))
                return self._update(tables, dist, bags, gradients, scale), *of_weights

            return (*outputs, tf.zeros_like(trap_value)), backward

        *outputs, probe = trapped(tf.convert_to_tensor(trap), *(bags[place].weights for place in learned))
        return outputs, probe

    def expect_gradient(self) -> None:
        """Fails when the last training call was never differentiated; that failure is told once."""
        missed = self._awaiting.read_value()
        self._awaiting.assign(tf.logical_not(missed))
        tf.debugging.Assert(tf.logical_not(missed), [NEVER])

    def _open(self) -> Any:
        """Begins a step; returns what `_close`, called in its backward pass, knows it by."""
        return self._version.read_value()

    def _close(self, version: Any) -> None:
        self._awaiting.assign(False)
        tf.debugging.Assert(tf.equal(version, self._version.read_value()), [TWICE])
        self._version.assign_add(1)

    def _update(
        self, tables: Tables, dist: Any, bags: list[Bag], gradients: list[tf.Tensor], scale: tf.Tensor
    ) -> tf.Tensor:
        """Applies, or keeps unscaled sums for `commit`; returns the trap's gradient, a NaN where Keras must skip the
        step, for the dense weights too."""
        if not self._scaled:
            tables.update(dist, bags, gradients)
            return tf.constant(0.0)
        tf.debugging.Assert(tf.not_equal(scale, 0.0), [_NO_SCALE])
        unscaled = by_group(dist, [gradient / scale for gradient in gradients])
        sums = {}
        for (group, asked), of_group in zip(dist.groups, unscaled, strict=True):
            for place, summed in reference.summed(group, asked, of_group).items():
                sums[group.tables[place].config.name] = summed
        return tf.where(self._waiting.keep(sums), 0.0, float("nan"))

    def commit(self, trap: tf.Tensor) -> tf.Tensor:
        """Applies what the backward pass kept. A Keras constraint: gives the weight back as it is."""
        self._waiting.apply()
        return trap


class _Waiting:
    """Summed gradients between the backward pass and the optimizer's decision. Never saved: a step is committed or not
    there."""

    def __init__(self, tables: Mapping[str, Table]) -> None:
        self._tables = tables
        self._present = {name: tf.Variable(False, trainable=False) for name in tables}
        self._ids = {name: growing(tf.zeros((0,), tf.int64)) for name in tables}
        self._gradients = {name: growing(tf.zeros((0, table.config.dim))) for name, table in tables.items()}
        self._skipped = _counter("skipped")

    @property
    def variables(self) -> dict[str, tf.Variable]:
        """By a name of their own."""
        kinds = {"present": self._present, "ids": self._ids, "gradients": self._gradients}
        each = {f"{kind}/{name}": held for kind, of_table in kinds.items() for name, held in of_table.items()}
        return {**each, "skipped": self._skipped}

    def keep(self, gradients: Mapping[str, tuple[tf.Tensor, tf.Tensor]]) -> tf.Tensor:
        """Replaces what is there; returns whether all of it is finite."""
        tf.debugging.Assert(self._skipped < MOST_SKIPPED, [_NOT_COMMITTED])
        self._skipped.assign_add(1)
        finite = tf.constant(True)
        for present in self._present.values():  # a step that was skipped may have left some of other tables
            present.assign(False)
        for name, (ids, gradient) in gradients.items():
            self._present[name].assign(True)
            self._ids[name].assign(ids)
            self._gradients[name].assign(gradient)
            finite = tf.logical_and(finite, tf.reduce_all(tf.math.is_finite(gradient)))
        return finite

    def apply(self) -> None:
        for name, table in self._tables.items():
            tf.cond(
                self._present[name].read_value(),
                lambda name=name, table=table: self._apply_one(name, table),
                lambda: tf.constant(False),
            )
        self._skipped.assign(0)

    def _apply_one(self, name: str, table: Table) -> tf.Tensor:
        ids = Bag(name, 0, self._ids[name].read_value(), None, None, None)
        kernels().update(TableGroup((table,)), [ids], [self._gradients[name].read_value()])
        table.note_update(ids.ids)
        self._present[name].assign(False)
        return tf.constant(True)


def _refuse_dynamic(names: list[str]) -> None:
    if names:
        raise ValueError(
            f"dynamic tables ({', '.join(names)}) learn, and take up new ids, only in a call with training=True: pass "
            "it to the layer in the training step"
        )


def _counter(name: str) -> tf.Variable:
    return tf.Variable(0, dtype=tf.int64, trainable=False, name=name)
