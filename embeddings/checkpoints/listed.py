"""Arrays of rows in a given order."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from embeddings.checkpoints.arrays import SavedArray, Writer
from embeddings.checkpoints.images import Image
from embeddings.checkpoints.variables import BYTES_TOGETHER, row_bytes
from foundation.tf import tf


def save_plain(values: np.ndarray, root: Path, path: str) -> SavedArray:
    """Writes an array as it is."""
    width = values.itemsize * int(np.prod(values.shape[1:]))
    together = [max(BYTES_TOGETHER // max(width, 1), 1), *values.shape[1:]]
    with Writer(root, path, values.shape, values.dtype.name, together) as writer:
        for piece in writer.pieces():
            writer.write(piece, values[piece])
        return writer.close()


def save_rows(variable: tf.Variable, numbers: np.ndarray, image: Image, root: Path, path: str) -> SavedArray:
    """Writes the rows of a variable that are so numbered [n] int64."""
    together = [max(BYTES_TOGETHER // row_bytes(variable), 1), *variable.shape[1:]]
    with Writer(root, path, [len(numbers), *variable.shape[1:]], variable.dtype.name, together) as writer:
        for piece in writer.pieces():
            writer.write(piece, image.rows(variable, numbers[piece[0]]))
        return writer.close()
