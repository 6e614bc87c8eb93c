"""A training that begins with what another job learned: rows by raw id, dense weights by name and shape."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from embeddings import ShardedEmbedding
from embeddings.checkpoints.manifest import Saved, SavedTable
from embeddings.checkpoints.warm_start import Mapped, WarmStarted, warm_start
from embeddings.dense import DenseCheckpoint
from foundation.errors import UserError
from foundation.files import disk_errors, partial_of, read_json, write_json
from foundation.progress import say
from foundation.tf import tf, tf_write_errors
from inputs.raw_ids import mapped_ids
from trainer.checkpoint_folder import CheckpointFolder
from trainer.dense_variables import VALUE, DenseVariables
from trainer.vocabularies import RunVocabularies, of_space, vocabularies_of
from trainer.warm_start_source import warm_start_source

if TYPE_CHECKING:
    from trainer.workspace import Workspace

_FACTS = "warm_start.json"
_NO_WEIGHTS = ("gradient_trap", "retrieval_loss/")  # what a training remembers of its own items is not another's


class WarmStart:
    """Of one stage's model. `begin` before its first step; `facts` from then on."""

    def __init__(self, workspace: Workspace, stage: str, model: Any, source: CheckpointFolder) -> None:
        self._workspace, self._stage, self._model, self._source = workspace, stage, model, source
        self._path = workspace.run.checkpoints / stage / _FACTS

    def begin(self) -> None:
        """Gives the model's tables and dense weights what the other has for them; every process calls it. Says and
        keeps what came.

        Raises:
          UserError: the other is damaged, or what its ids stand for cannot be told.
        """
        source, layer = self._source, self._model.embedding
        source.saved.check()
        mappings, left_out = _mappings(layer, source, _vocabularies_here(self._workspace))
        tables = warm_start(layer, source.tables, mappings)
        kept, new = self._begin_dense()
        if not self._workspace.world.is_chief:
            return
        say(f"{self._stage}: begins with {source.path}")
        for name, table in tables.items():
            say(f"{self._stage}: {_told(name, table)}")
        for name, reason in left_out.items():
            say(f"{self._stage}: table '{name}' begins anew: {reason}")
        say(f"{self._stage}: dense variables: {kept} kept, {new} new")
        told = {name: table.document() for name, table in tables.items()}
        facts = {"from": str(source.path), "tables": told, "tables_begun_anew": left_out}
        write_json(self._path, {**facts, "dense": {"kept": kept, "new": new}})

    def _begin_dense(self) -> tuple[int, int]:
        """(variables that came, weights that did not), as the chief counts them: it alone writes."""
        world, dense = self._workspace.world, DenseCheckpoint(model=self._model)
        folder, counts = partial_of(self._path, 0), (0, 0)  # swept at the next start, should this one be killed
        if world.is_chief:
            with disk_errors(folder):
                shutil.rmtree(folder, ignore_errors=True)
                folder.mkdir(parents=True)
            counts = _join(dense, DenseVariables(self._source.path), folder)
        world.meet()
        dense.read(str(folder / "joined"))
        world.meet()
        if world.is_chief:
            shutil.rmtree(folder, ignore_errors=True)
        return counts

    def facts(self) -> dict[str, Any]:
        """What came, as it was when the training began."""
        return read_json(self._path, "what the training began with")


def warm_start_of(workspace: Workspace, stage: str, model: Any) -> WarmStart | None:
    """None: the job asks for none, or that which it names is of another stage.

    Raises:
      UserError: there is no such checkpoint.
    """
    named = workspace.job.training.warm_start
    source = warm_start_source(named, stage)
    if source is None:
        if named is not None:
            say(f"{stage}: begins anew: {named} has no checkpoint of this stage")
        return None
    return WarmStart(workspace, stage, model, source)


def _told(name: str, table: WarmStarted) -> str:
    slots = f"; {', '.join(table.slots)} too" if table.slots else ""
    anew = f"; {', '.join(table.left_out)} anew, the optimizer being another" if table.left_out else ""
    new = "" if table.new is None else f"{table.new:,} new, "
    return f"table '{name}': ids {table.kept:,} kept, {new}{table.dropped:,} dropped{slots}{anew}"


def _vocabularies_here(workspace: Workspace) -> RunVocabularies:
    return of_space(workspace.space, workspace.job.inputs.hashed)


def _mappings(
    layer: ShardedEmbedding, source: CheckpointFolder, here: RunVocabularies
) -> tuple[dict[str, Mapped | None], dict[str, str]]:
    """(by table which ids there are which here, why other tables begin anew)."""
    if source.run is None:
        raise UserError(
            f"training.warm_start: {source.path} lies in no run directory, which would tell what its ids stand for.",
            "Name it as it lies there: RUN, or RUN/checkpoints/STAGE/step-N.",
        )
    there, saved = vocabularies_of(source.run), Saved.read(source.tables)
    mappings: dict[str, Mapped | None] = {}
    left_out = {}
    for name, config in layer.table_configs.items():
        reason = _unlike(name, config.dim, saved.tables, here, there)
        if reason is not None:
            left_out[name] = reason
        elif name in here.hashed:
            mappings[name] = None
        else:
            size, known = saved.tables[name].vocabulary_size, len(there.values[name]) + 1
            if size != known:
                raise UserError(
                    f"training.warm_start: {source.run / 'space'}: not the feature space that {source.path} was "
                    f"trained with: table '{name}' has {size} ids there, and {known} in it.",
                    "Name a run directory whose stages are done.",
                )
            mappings[name] = mapped_ids(here.values[name], there.values[name])
    return mappings, left_out


def _unlike(
    name: str, dim: int, saved: Mapping[str, SavedTable], here: RunVocabularies, there: RunVocabularies
) -> str | None:
    """Why a table cannot begin with the other's rows; None: it can."""
    if name not in saved:
        return "there is none of its name"
    if saved[name].dim != dim:
        return f"it has dim {dim}, the other {saved[name].dim}"
    if here.hashed.get(name) != there.hashed.get(name):
        return "its ids are hashed otherwise"
    known = name in here.hashed or (name in here.values and name in there.values)
    return None if known else "what its ids stand for is not known"


def _join(dense: DenseCheckpoint, other: DenseVariables, folder: Path) -> tuple[int, int]:
    """Writes to `folder`/joined the dense variables as they are, but with the other's values of those of the same name,
    shape and dtype; (how many those are, how many weights they are not)."""
    with tf_write_errors(folder):
        own = tf.train.load_checkpoint(dense.write(str(folder / "own")))
        values = {name: own.get_tensor(name) for name in own.get_variable_to_shape_map()}
        weights = [
            name
            for name in values
            if name.startswith("model/") and name.endswith(VALUE) and not any(word in name for word in _NO_WEIGHTS)
        ]
        came = [name for name in weights if _fits(values[name], name.removesuffix(VALUE), other)]
        values.update((name, other.read(name.removesuffix(VALUE))) for name in came)
        names, joined = list(values), str(folder / "joined")
        tensors = [tf.constant(values[name]) for name in names]
        tf.raw_ops.SaveV2(prefix=joined, tensor_names=names, shape_and_slices=[""] * len(names), tensors=tensors)
    return len(came), len(weights) - len(came)


def _fits(value: Any, name: str, other: DenseVariables) -> bool:
    return other.shapes.get(name) == value.shape and other.dtypes[name] == tf.as_dtype(value.dtype).name
