"""The suite runs, and its figures are sound; none is compared with another."""

import math

import pytest

from benchmarks.checkpoint_suite import QUICK, measure


@pytest.mark.long
def test_the_quick_suite_measures_saves_and_restores():
    report = measure(QUICK, quick=True)
    for name in ("save_bandwidth_vs_disk", "restore_bandwidth_vs_disk", "training_stall_share", "headrace.save_s"):
        assert math.isfinite(report.metrics[name])
        assert report.metrics[name] > 0
    assert report.metrics["training_stall_share"] <= 1
    assert report.metrics["save_speed_vs_tensorflow"] == pytest.approx(
        report.metrics["tensorflow.save_s"] / report.metrics["headrace.save_s"]
    )
    assert report.protocol["rows"] == QUICK.rows
