"""The bundle: everything the funnel needs, in a folder that stock TensorFlow and ScaNN can serve."""

from __future__ import annotations

import json
import shutil
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from embeddings.kernels import stock_only
from foundation.errors import UserError, damaged, first_line
from foundation.files import atomic_directory, read_json
from foundation.tf import as_written, tf, tf_write_errors
from inputs.features import FeatureSpace
from inputs.histories import Histories
from postranking.config import PostRankingConfig
from ranking.ranker import Ranker
from retrieval.two_tower import TwoTower
from serving.config import FunnelConfig
from serving.signatures import signature_of, unflatten

MANIFEST = "bundle.json"
FORMAT = 1
DEFAULT = tf.saved_model.DEFAULT_SERVING_SIGNATURE_DEF_KEY


@dataclass(frozen=True)
class Card:
    """What a bundle says of itself. now: the moment it was made for (seconds): nothing after it is known to it."""

    name: str
    now: int
    history_length: int
    funnel: FunnelConfig
    postranking: PostRankingConfig


def export_bundle(
    path: str | Path,
    card: Card,
    two_tower: TwoTower,
    ranker: Ranker,
    space: FeatureSpace,
    histories: Histories,
    index: Path,
    vectors: np.ndarray,
) -> None:
    """Writes the bundle, whole or not at all.

    `query_tower/`, `item_tower/` and `ranker/` are SavedModels (their ragged inputs flattened, see
    `serving.signatures`); `space/`, `histories.npz`, `index/` and `candidates.npy` [N, D] are what is looked up around
    them.
    """
    with atomic_directory(path) as folder:
        _save_tower(folder / "query_tower", two_tower.embed_queries, space.query_features, "query")
        _save_tower(folder / "item_tower", two_tower.embed_items, space.item_features, "candidate")
        _save_ranker(folder / "ranker", ranker, space)
        space.save(folder / "space")
        histories.save(folder / "histories.npz")
        shutil.copytree(index, folder / "index")
        np.save(folder / "candidates.npy", vectors)
        document = {
            "format": FORMAT,
            "name": card.name,
            "now": card.now,
            "history_length": card.history_length,
            "funnel": card.funnel.model_dump(mode="json"),
            "postranking": card.postranking.model_dump(mode="json"),
            "files": {
                str(file.relative_to(folder)): file.stat().st_size
                for file in sorted(folder.rglob("*"))
                if file.is_file()
            },
        }
        (folder / MANIFEST).write_text(json.dumps(document, indent=2) + "\n")


def read_card(path: Path) -> Card:
    """What the bundle at `path` says of itself.

    Raises:
      UserError: there is no bundle, it is of another format, or a file of it is missing or truncated.
    """
    document: Any = read_json(path / MANIFEST, "the bundle's manifest")
    if not isinstance(document, dict) or document.get("format") != FORMAT:
        raise UserError(f"{path / MANIFEST}: not a bundle of format {FORMAT}.", "Export again.")
    with damaged(path / MANIFEST, "Export again."):
        sizes = {path / name: size for name, size in document["files"].items()}
        card = Card(
            document["name"],
            document["now"],
            document["history_length"],
            FunnelConfig.model_validate(document["funnel"]),
            PostRankingConfig.model_validate(document["postranking"]),
        )
    for file, size in sizes.items():
        if not file.exists() or file.stat().st_size != size:
            raise UserError(f"{file}: this part of the bundle is missing or damaged.", "Export again.")
    return card


@contextmanager
def readable(part: Path) -> Iterator[None]:
    """Names the part of a bundle that the block fails to read, as a UserError."""
    try:
        yield
    except (OSError, EOFError, ValueError, LookupError, zipfile.BadZipFile, tf.errors.OpError) as error:
        raise UserError(
            f"{part}: this part of the bundle is missing or damaged ({first_line(error)}).", "Export again."
        ) from error


def load_signature(path: Path) -> Any:
    """The default signature of a SavedModel, callable with tensors by name.

    Raises:
      UserError: it is missing or damaged.
    """
    with readable(path):
        model = tf.saved_model.load(str(path))
        signature = model.signatures[DEFAULT]
    signature._headrace_owner = model  # the signature holds its variables only weakly
    return signature


def _save_tower(path: Path, embed: Any, features: Any, output: str) -> None:
    @tf.function(input_signature=[signature_of(features)])
    @as_written
    def serve(flat: dict[str, tf.Tensor]) -> dict[str, tf.Tensor]:
        return {output: embed(unflatten(features, flat))}

    _save(path, serve)


def _save_ranker(path: Path, ranker: Ranker, space: FeatureSpace) -> None:
    features = {**space.query_features, **space.item_features}
    signature = {**signature_of(features), "list_row_splits": tf.TensorSpec([None], tf.int64, "list_row_splits")}

    @tf.function(input_signature=[signature])
    @as_written
    def serve(flat: dict[str, tf.Tensor]) -> dict[str, tf.Tensor]:
        inputs = unflatten(features, flat)
        query = {name: inputs[name] for name in space.query_features}
        items = {name: inputs[name] for name in space.item_features}
        predictions = ranker.predict(query, items, flat["list_row_splits"])
        return {**predictions, "value": ranker.value(predictions)}

    _save(path, serve)


def _save(path: Path, serve: Any) -> None:
    """Saves a function and the variables it reads: neither slot variables nor the optimizer's own."""
    module = tf.Module()
    with stock_only():
        module.serve, module.read = serve, list(serve.get_concrete_function().graph.variables)
    options = tf.saved_model.SaveOptions(experimental_custom_gradients=False)  # the fused update stays at home
    with tf_write_errors(path):
        tf.saved_model.save(module, str(path), signatures={DEFAULT: serve}, options=options)
