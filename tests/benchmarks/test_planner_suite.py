"""The planner suite ends and gives its figures; what it draws is varied, within its limits, and the same for a seed."""

import math

import numpy as np
import pytest

from benchmarks import planner_suite
from benchmarks.planner_problem import BATCHES, LIMITS, OPTIMIZERS, RANKS, Limits, draw_models, kinds_of
from embeddings.planner import load_topology
from embeddings.planner.tables import Dense, TableSpec, Workload
from embeddings.sharding import KINDS
from trainer.workload_step import batches_of, training_step


@pytest.fixture(scope="module")
def topology():
    return load_topology("h100-8").sized(1, RANKS)


@pytest.mark.long
def test_a_quick_run_gives_every_figure():
    report = planner_suite.run(quick=True)
    metrics, sizes = report.metrics, planner_suite.QUICK
    assert all(math.isfinite(value) for value in metrics.values())
    assert report.protocol["topology"]["devices_per_host"] == RANKS
    for suffix in ("", "_seed_3"):
        errors = []
        for number in range(sizes.models):
            predicted, measured, error = (
                metrics[f"model_{number}.{what}{suffix}"] for what in ("predicted_ms", "measured_ms", "error")
            )
            assert min(predicted, measured) > 0
            assert error == pytest.approx(predicted / measured - 1)
            errors.append(abs(error))
        assert metrics[f"predicted_step_time_median_error{suffix}"] == pytest.approx(np.median(errors))
        assert metrics[f"predicted_step_time_worst_error{suffix}"] == pytest.approx(max(errors))
        assert -1 <= metrics[f"predicted_vs_measured_rank_correlation{suffix}"] <= 1


def test_a_seed_gives_the_same_models_and_another_seed_others():
    assert draw_models(10, 1) == draw_models(10, 1)
    assert draw_models(10, 1) != draw_models(10, 2)
    assert draw_models(3, 1) == draw_models(10, 1)[:3]


@pytest.mark.parametrize("seed", planner_suite.Sizes().seeds)
def test_ten_models_are_varied_and_within_the_limits(seed, topology):
    models = draw_models(10, seed)
    kinds = [kind for model in models for kind in kinds_of(model.planned(topology))]
    assert set(kinds) == set(KINDS)
    tables = [table for model in models for table in model.workload.tables]
    assert {table.optimizer for table in tables} == set(OPTIMIZERS)
    assert {bool(model.widths) for model in models} == {True, False}
    assert {model.mixed for model in models} == {True, False}
    assert len({model.workload.batch_size for model in models}) >= 3
    assert {table.features for table in tables} == {1, 2, 3}
    assert {table.pooling_factor == 1 for table in tables} == {True, False}
    for model in models:
        assert 3 <= len(model.workload.tables) <= 40
        assert len({table.dim for table in model.workload.tables}) <= 2
        assert model.workload.batch_size in BATCHES
        assert sum(table.bytes_of(table.rows) for table in model.workload.tables) <= LIMITS.tables
        assert model.workload.dense.layers == len(model.widths)


def test_smaller_limits_are_kept():
    limits = Limits(tables=2e7, vectors=4e6, batch=1024)
    for model in draw_models(4, 1, limits):
        tables = model.workload.tables
        assert model.workload.batch_size == 1024
        assert sum(table.bytes_of(table.rows) for table in tables) <= 2e7
        assert sum(4 * table.dim * table.ids_per_example for table in tables) * 1024 <= 4e6


def test_ids_are_drawn_by_the_tables_laws():
    tables = (TableSpec("even", 50, 4, pooling_factor=3), TableSpec("skewed", 1_000, 4, zipf_alpha=1.0, features=2))
    batches = batches_of(Workload(tables, 8_192), ranks=2, rank=1, count=2)
    assert [sorted(batch) for batch in batches] == [["even.0", "skewed.0", "skewed.1"]] * 2
    first, second = ({name: ids.numpy() for name, ids in batch.items()} for batch in batches)
    assert first["even.0"].shape == (4_096, 3)
    assert first["skewed.1"].shape == (4_096,)
    assert not np.array_equal(first["even.0"], second["even.0"])
    assert set(first["even.0"].ravel()) == set(range(50))
    for ids in (first["skewed.0"], second["skewed.1"]):
        assert 0 <= ids.min() <= ids.max() < 1_000
        share = (ids == 0).mean()
        assert share == pytest.approx(tables[1].law.share(1), rel=0.2)
        assert len(set(ids)) == pytest.approx(tables[1].law.distinct(len(ids)), rel=0.05)


def test_a_step_trains_tables_and_dense_layers():
    tables = (TableSpec("a", 20, 4, optimizer="Adagrad"), TableSpec("b", 30, 4, pooling_factor=2, features=2))
    workload = Workload(tables, 16, Dense.stack((12, 8, 1)))
    step = training_step(workload, (8, 1))
    [batch] = batches_of(workload, 1, 0, 1)
    losses = [float(step(batch)) for _ in range(5)]
    assert all(math.isfinite(loss) for loss in losses)
    assert losses[-1] < losses[0]
