"""The one gateway to TensorFlow: `from foundation.tf import tf, keras`.

headrace needs Keras 2 (tf-keras), which TensorFlow only gives when TF_USE_LEGACY_KERAS is set before tf.keras is first
touched: TensorFlow Recommenders and TensorFlow Ranking are written for it. TensorFlow's start-up chatter is kept off
the screen unless the caller asked for it.
"""

from __future__ import annotations

import contextlib
import os
import warnings
from collections.abc import Iterator

from foundation.errors import UserError, first_line

os.environ.setdefault("TF_USE_LEGACY_KERAS", "1")
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")  # at 2, a machine without a GPU is told so as an error

warnings.filterwarnings("ignore", category=DeprecationWarning, module=r"tensorflow.*|tf_keras.*|flatbuffers.*")

import absl.logging  # noqa: E402
import tensorflow as tf  # noqa: E402
from tensorflow.python.eager import record  # noqa: E402 - these four have no public name
from tensorflow.python.ops import resource_variable_ops  # noqa: E402
from tensorflow.python.saved_model import save_context  # noqa: E402
from tensorflow.tsl.profiler.protobuf import xplane_pb2  # noqa: E402

# Which Keras was chosen shows in where its classes live: a version attribute exists only under Keras 3.
if not tf.keras.Model.__module__.startswith("tf_keras"):
    raise UserError(
        f"headrace needs Keras 2 (tf-keras), but this process already chose another ({tf.keras.Model.__module__}).",
        "Set TF_USE_LEGACY_KERAS=1 before the first `import tensorflow`, or import headrace's packages first.",
    )

tf.get_logger().setLevel("ERROR")
absl.logging.set_verbosity(absl.logging.ERROR)
keras = tf.keras
Trackable = tf.__internal__.tracking.Trackable  # what a checkpoint can hold

# `as_written(f)`: f, traced as it is. AutoGraph would first read, rewrite and compile it and all that it calls, which
# takes as long as the tracing itself, for loops and branches over tensors: what has none asks to be spared.
as_written = tf.autograph.experimental.do_not_convert


@contextlib.contextmanager
def tf_write_errors(path: str | os.PathLike[str]) -> Iterator[None]:
    """Turns TensorFlow's failure to write (a full disk above all) into a UserError that names `path`, as
    `foundation.files.disk_errors` does with Python's own."""
    try:
        yield
    except tf.errors.OpError as error:
        reason = first_line(error)
        if "No space left" in reason or "Disk quota" in reason:
            raise UserError(f"{path}: the disk is full.", "Free some space and run the same command again.") from error
        raise UserError(f"{path}: cannot be written ({reason}).", "Mend it and run the same command again.") from error


@contextlib.contextmanager
def own_variables() -> Iterator[None]:
    """Variables made inside are this process' own, whatever tf.distribute scope they are made in: one that mirrors
    variables would keep every rank's alike."""
    # Keras compiles a model only with variables that say they were made in its strategy's scope.
    strategy = tf.distribute.get_strategy() if tf.distribute.has_strategy() else None

    def make(_: object, **options: object) -> tf.Variable:
        options = {**options, "distribute_strategy": strategy}
        return resource_variable_ops.default_variable_creator_v2(None, **options)

    with tf.variable_creator_scope(make):
        yield


def is_watched(tensor: tf.Tensor) -> bool:
    """Whether a gradient may be asked for a tensor: a tape watches what it is made from."""
    return bool(record.should_record_backprop([tensor]))


def is_being_saved() -> bool:
    """Whether what is traced now goes into a SavedModel."""
    return bool(save_context.in_save_context())


__all__ = ["Trackable", "as_written", "is_being_saved", "is_watched", "keras", "tf", "tf_write_errors", "xplane_pb2"]
