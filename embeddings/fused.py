"""The update fused into the backward pass, and the checks that it happens once per step."""

from __future__ import annotations

from collections.abc import Mapping

from embeddings.tables.static import StaticTable
from foundation.tf import tf

MOST_SKIPPED = 200  # steps in a row that a loss scale may skip before we say that none is ever committed

_TWICE = (
    "ShardedEmbedding: its tables changed between this step's forward and backward pass. Either a gradient was asked "
    "twice, or the layer was called twice in one step: call it once, with all features, and differentiate once."
)
_NEVER = (
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

    def __init__(self, tables: Mapping[str, StaticTable], scaled: bool) -> None:
        self._tables, self._scaled = tables, scaled
        self._version = _counter("version")  # backward passes made
        self._awaiting = tf.Variable(False, trainable=False, name="awaiting")
        self.variables = [self._version, self._awaiting]
        self.transient: dict[str, tf.Variable] = {}  # of no worth after a step
        if scaled:
            self._waiting = _Waiting(tables)
            self.transient = self._waiting.variables

    def lookup(
        self, trap: tf.Variable, ids: Mapping[str, tf.Tensor], training: bool
    ) -> tuple[dict[str, tf.Tensor], tf.Tensor]:
        """Rows [n, dim] of each table's `ids` [n] int64, and a zero whose gradient is the loss scale."""
        names = list(ids)
        if training:
            self._expect_gradient()

        @tf.custom_gradient
        def trapped(trap_value: tf.Tensor):
            version = self._version.read_value()
            rows = [self._tables[name].lookup(ids[name]) for name in names]

            def backward(*upstream: tf.Tensor) -> tf.Tensor:
                *gradients, scale = upstream
                self._close(version)
                return self._update({name: (ids[name], g) for name, g in zip(names, gradients, strict=True)}, scale)

            return (*rows, tf.zeros_like(trap_value)), backward

        *rows, probe = trapped(tf.convert_to_tensor(trap))
        return dict(zip(names, rows, strict=True)), probe

    def _expect_gradient(self) -> None:
        """Fails when the last training call was never differentiated; that failure is told once."""
        missed = self._awaiting.read_value()
        self._awaiting.assign(tf.logical_not(missed))
        tf.debugging.Assert(tf.logical_not(missed), [_NEVER])

    def _close(self, version: tf.Tensor) -> None:
        self._awaiting.assign(False)
        tf.debugging.Assert(tf.equal(version, self._version.read_value()), [_TWICE])
        self._version.assign_add(1)

    def _update(self, gradients: Mapping[str, tuple[tf.Tensor, tf.Tensor]], scale: tf.Tensor) -> tf.Tensor:
        """Applies, or keeps for `commit`; returns the trap's gradient."""
        if not self._scaled:
            for name, (ids, gradient) in gradients.items():
                self._tables[name].apply(*summed(ids, gradient))
            return tf.constant(0.0)
        tf.debugging.Assert(tf.not_equal(scale, 0.0), [_NO_SCALE])
        finite = self._waiting.keep({name: summed(ids, g / scale) for name, (ids, g) in gradients.items()})
        return tf.where(finite, 0.0, float("nan"))  # a NaN makes Keras skip the step, for the dense weights too

    def commit(self, trap: tf.Tensor) -> tf.Tensor:
        """Applies what the backward pass kept. A Keras constraint: gives the weight back as it is."""
        self._waiting.apply()
        return trap


class _Waiting:
    """Summed gradients between the backward pass and the optimizer's decision. Never saved: a step is committed or not
    there."""

    def __init__(self, tables: Mapping[str, StaticTable]) -> None:
        self._tables = tables
        self._present = {name: tf.Variable(False, trainable=False) for name in tables}
        self._ids = {name: _growing(tf.zeros((0,), tf.int64)) for name in tables}
        self._gradients = {name: _growing(tf.zeros((0, table.config.dim))) for name, table in tables.items()}
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

    def _apply_one(self, name: str, table: StaticTable) -> tf.Tensor:
        table.apply(self._ids[name].read_value(), self._gradients[name].read_value())
        self._present[name].assign(False)
        return tf.constant(True)


def summed(ids: tf.Tensor, gradient: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    """(distinct ids [u] int64, their gradients summed over occurrences [u, dim])."""
    gradient = tf.convert_to_tensor(gradient)
    distinct, places = tf.unique(ids)
    return distinct, tf.math.unsorted_segment_sum(gradient, places, tf.size(distinct))


def _counter(name: str) -> tf.Variable:
    return tf.Variable(0, dtype=tf.int64, trainable=False, name=name)


def _growing(initial: tf.Tensor) -> tf.Variable:
    """A variable whose first dimension may change."""
    return tf.Variable(initial, trainable=False, shape=[None, *initial.shape[1:]])
