"""Keras 2 is chosen, or the reason it cannot be is said."""

import subprocess
import sys


def _python(code: str) -> subprocess.CompletedProcess:
    environment = {"PATH": "/usr/bin:/bin", "PYTHONPATH": ".", "TF_CPP_MIN_LOG_LEVEL": "3"}
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment, check=False)


def test_importing_headrace_first_chooses_keras_2_in_silence():
    done = _python("from foundation.tf import keras; print(keras.Model.__module__.partition('.')[0])")
    assert done.stdout.strip() == "tf_keras"
    assert done.stderr == ""


def test_too_late_is_a_clear_error():
    done = _python("import tensorflow as tf; tf.keras.Model; import foundation.tf")
    assert done.returncode != 0
    assert "Set TF_USE_LEGACY_KERAS=1 before the first `import tensorflow`" in done.stderr
