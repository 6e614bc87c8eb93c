"""The dense variables of a checkpoint by name, without a model."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from foundation.errors import UserError, first_line
from foundation.tf import tf
from trainer.checkpoint_state import VARIABLES

VALUE = "/.ATTRIBUTES/VARIABLE_VALUE"  # what TensorFlow adds to a variable's path


class DenseVariables:
    """shapes, dtypes: by name, in its order.

    Raises:
      UserError: they are missing or damaged.
    """

    def __init__(self, folder: Path) -> None:
        self._prefix = str(folder / VARIABLES)
        try:
            self._reader = tf.train.load_checkpoint(self._prefix)
        except (tf.errors.OpError, ValueError, RuntimeError) as error:
            raise self._damaged(error) from error
        shapes = self._reader.get_variable_to_shape_map()
        dtypes = self._reader.get_variable_to_dtype_map()
        names = sorted(name.removesuffix(VALUE) for name in shapes if name.endswith(VALUE))
        self.shapes = {name: tuple(shapes[name + VALUE]) for name in names}
        self.dtypes = {name: dtypes[name + VALUE].name for name in names}

    def read(self, name: str) -> np.ndarray:
        """Raises UserError: it is damaged."""
        try:
            return np.asarray(self._reader.get_tensor(name + VALUE))
        except (tf.errors.OpError, ValueError, RuntimeError) as error:
            raise self._damaged(error) from error

    def _damaged(self, error: Exception) -> UserError:
        return UserError(
            f"{self._prefix}.*: the dense variables cannot be read ({first_line(error)}).",
            "`headrace checkpoint verify` says which file is damaged.",
        )
