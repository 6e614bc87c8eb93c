"""The update fused into the backward pass, and the checks that it happens once per step."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from embeddings.kernels import kernels, reference
from embeddings.kernels.group import Bag, TableGroup
from embeddings.tables.dynamic import growing
from foundation.tf import is_watched, tf

if TYPE_CHECKING:
    from embeddings.kernels.group import Table

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

    def __init__(self, tables: Mapping[str, Table], scaled: bool) -> None:
        self._scaled = scaled
        self._version = _counter("version")  # backward passes made
        self._awaiting = tf.Variable(False, trainable=False, name="awaiting")
        self.variables = [self._version, self._awaiting]
        self.transient: dict[str, tf.Variable] = {}  # of no worth after a step
        if scaled:
            self._waiting = _Waiting(tables)
            self.transient = self._waiting.variables

    def lookup(
        self, trap: tf.Variable, groups: Sequence[TableGroup], bags: Sequence[list[Bag]], training: bool
    ) -> tuple[list[list[tf.Tensor]], tf.Tensor]:
        """What `Kernels.lookup` gives for each group, and a zero whose gradient is the loss scale."""
        flat = [(group, bag) for group, asked in zip(groups, bags, strict=True) for bag in asked]
        # weights that a gradient may be asked for: only for them are the rows read again in the backward pass
        learned = [place for place, (_, bag) in enumerate(flat) if bag.weights is not None and is_watched(bag.weights)]

        @tf.custom_gradient
        def trapped(trap_value: tf.Tensor, *_: tf.Tensor):
            version = self._version.read_value()
            outputs = [kernels().lookup(group, asked) for group, asked in zip(groups, bags, strict=True)]
            outputs = [output for of_group in outputs for output in of_group]

            def backward(*upstream: tf.Tensor) -> tuple[tf.Tensor, ...]:
                if not training:
                    _refuse_dynamic(groups)
                *gradients, scale = upstream
                self._close(version)
                of_weights = [
                    reference.gradient_of_weights(*flat[place], outputs[place], gradients[place]) for place in learned
                ]
                return self._update(groups, bags, _like(bags, gradients), scale), *of_weights

            return (*outputs, tf.zeros_like(trap_value)), backward

        *outputs, probe = trapped(tf.convert_to_tensor(trap), *(flat[place][1].weights for place in learned))
        return _like(bags, outputs), probe

    def expect_gradient(self) -> None:
        """Fails when the last training call was never differentiated; that failure is told once."""
        missed = self._awaiting.read_value()
        self._awaiting.assign(tf.logical_not(missed))
        tf.debugging.Assert(tf.logical_not(missed), [_NEVER])

    def _close(self, version: tf.Tensor) -> None:
        self._awaiting.assign(False)
        tf.debugging.Assert(tf.equal(version, self._version.read_value()), [_TWICE])
        self._version.assign_add(1)

    def _update(
        self,
        groups: Sequence[TableGroup],
        bags: Sequence[list[Bag]],
        gradients: Sequence[list[tf.Tensor]],
        scale: tf.Tensor,
    ) -> tf.Tensor:
        """Applies, or keeps unscaled sums for `commit`; returns the trap's gradient, a NaN where Keras must skip the
        step, for the dense weights too."""
        if not self._scaled:
            for group, asked, of_group in zip(groups, bags, gradients, strict=True):
                kernels().update(group, asked, of_group)
            return tf.constant(0.0)
        tf.debugging.Assert(tf.not_equal(scale, 0.0), [_NO_SCALE])
        sums = {}
        for group, asked, of_group in zip(groups, bags, gradients, strict=True):
            unscaled = [gradient / scale for gradient in of_group]
            for place, summed in reference.summed(group, asked, unscaled).items():
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
        self._present[name].assign(False)
        return tf.constant(True)


def _refuse_dynamic(groups: Sequence[TableGroup]) -> None:
    names = [table.config.name for group in groups for table in group.tables if table.config.vocabulary_size is None]
    if names:
        raise ValueError(
            f"dynamic tables ({', '.join(names)}) learn, and take up new ids, only in a call with training=True: pass "
            "it to the layer in the training step"
        )


def _like(bags: Sequence[list[Bag]], flat: Sequence[tf.Tensor]) -> list[list[tf.Tensor]]:
    """One tensor for each bag, group by group."""
    rest = iter(flat)
    return [[next(rest) for _ in asked] for asked in bags]


def _counter(name: str) -> tf.Variable:
    return tf.Variable(0, dtype=tf.int64, trainable=False, name=name)
