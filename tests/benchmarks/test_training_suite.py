"""The training suite ends and gives its figures; what it compares did the same work."""

import math

import numpy as np
import pytest

from benchmarks import training_suite
from benchmarks.peers import PYTHON


@pytest.mark.long
def test_a_quick_run_gives_every_figure():
    report = training_suite.run(quick=True)
    assert report.suite == "training"
    assert all(math.isfinite(value) and value >= 0 for value in report.metrics.values())
    sides = ["headrace", "keras"]
    if PYTHON.exists() and not any("was not measured" in note for note in report.notes):
        sides.append("torch")
    for model in training_suite.MODELS:
        for side in sides[1:]:
            ratio = report.metrics[f"{model}_examples_per_s_vs_{side}"]
            ours, theirs = (report.metrics[f"{model}.{name}_examples_per_s"] for name in ("headrace", side))
            assert ratio == pytest.approx(ours / theirs)
    assert 0 <= report.metrics["input_wait_share"] <= 1


def test_equal_work_is_told_from_other_work(tmp_path):
    class Fixed:
        def __init__(self, losses, vectors):
            self.losses, self._vectors = losses, np.array(vectors)

        def vectors(self, folder):
            return self._vectors

    ours = Fixed([0.7, 0.6], [1.0, 2.0])
    same = {"headrace": ours, "keras": Fixed([0.7, 0.5], [9.0, 9.0]), "torch": Fixed([0.7, 0.60001], [1.0, 2.0001])}
    training_suite._check_equal_work("dlrm", same, tmp_path)
    for other in (Fixed([0.7, 0.5], [1.0, 2.0]), Fixed([0.7, 0.6], [1.0, 2.1]), Fixed([0.7, math.nan], [1.0, 2.0])):
        with pytest.raises(AssertionError, match="torch and headrace"):
            training_suite._check_equal_work("dlrm", {"headrace": ours, "torch": other}, tmp_path)
