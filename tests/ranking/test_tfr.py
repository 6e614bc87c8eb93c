"""TensorFlow Ranking loads on this TensorFlow, in silence, and leaves it as it was."""

from __future__ import annotations

import subprocess
import sys

import pytest

from foundation.tf import tf
from ranking import tfr


def run(code: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, timeout=120)


def test_losses_and_metrics_compute() -> None:
    relevance, scores = tf.constant([[1.0, 0.0, 0.0]]), tf.constant([[0.1, 0.9, 0.5]])
    expected = -tf.math.log_softmax(scores)[0, 0]
    assert float(tfr.losses.SoftmaxLoss()(relevance, scores)) == pytest.approx(float(expected), rel=1e-6)
    assert float(tfr.metrics.MRRMetric()(relevance, scores)) == pytest.approx(1 / 3)
    assert tfr.version == "0.5.5"


def test_tensorflow_is_left_as_it_was() -> None:
    assert not hasattr(tf, "estimator")
    assert not hasattr(tf.compat.v1, "estimator")


def test_importing_says_nothing() -> None:
    done = run("import ranking.tfr")
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_without_the_library_the_error_says_what_to_do() -> None:
    code = "import sys; sys.modules['tensorflow_ranking'] = None\nimport ranking.tfr"
    done = run(code)
    assert done.returncode == 1
    assert "UserError: TensorFlow Ranking cannot be imported" in done.stderr
    assert "make setup" in done.stderr
