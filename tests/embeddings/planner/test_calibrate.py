"""Fits that find again what measurements were made from."""

from dataclasses import astuple, fields, replace

import numpy as np
import pytest

from embeddings.planner.calibrate import PROBES, Costs, estimated_seconds, fitted_costs, machine_topology
from embeddings.planner.estimate import CostModel
from embeddings.planner.planner import planned

TRUTH = Costs(
    launch=4e-6,
    grouping=2e-8,
    merging=1e-8,
    byte=4e-10,
    streamed=2e-10,
    stepping=1e-9,
    flop=3e-11,
    latency=1e-3,
    sent=2e-9,
)
CASES = [(probe, ranks) for ranks in (1, 2) for probe in PROBES.values()]


def test_costs_are_found_again():
    found = fitted_costs([(*case, estimated_seconds(*case, TRUTH)) for case in CASES])
    assert astuple(found) == pytest.approx(astuple(TRUTH), rel=1e-6)


def test_noise_moves_them_little_and_none_turns_negative():
    rng = np.random.default_rng(0)
    found = fitted_costs([(*case, estimated_seconds(*case, TRUTH) * rng.uniform(0.9, 1.1)) for case in CASES])
    for case in CASES:
        assert estimated_seconds(*case, found) == pytest.approx(estimated_seconds(*case, TRUTH), rel=0.2)
    assert min(astuple(fitted_costs([(*case, 1e-3) for case in CASES]))) > 0


def test_the_topology_estimates_what_was_fitted():
    topology = machine_topology(2, copy=1e10, flops=5e10, costs=TRUTH)
    assert topology.flops * topology.flops_efficiency == pytest.approx(1 / TRUTH.flop, rel=0.01)
    for probe in PROBES.values():
        costs, placements = CostModel(probe.workload, topology), probe.placements(2)
        load = np.sum([costs.load(table, placements[table.name]) for table in probe.tables], axis=0)
        assert costs.step_seconds(load) == pytest.approx(estimated_seconds(probe, 2, TRUTH), rel=1e-3)


def test_one_rank_alone_has_a_link_that_costs_nothing():
    costs = fitted_costs([(probe, 1, estimated_seconds(probe, 1, TRUTH)) for probe in PROBES.values()])
    topology = machine_topology(1, copy=1e10, flops=5e10, costs=costs)
    assert topology.ranks == 1
    assert topology.kernel_launch == pytest.approx(TRUTH.launch, rel=1e-3)
    assert (topology.intra_host.latency, topology.intra_host.speed) == (0.0, 1e10)


def test_what_was_not_measured_costs_what_the_memory_has():
    """A rate that calibration would have measured is then that of the random rows or of grouping."""
    measured = machine_topology(
        2, copy=1e10, flops=5e10, costs=replace(TRUTH, merging=2e-8, streamed=4e-10, stepping=1e-30)
    )
    bare = replace(measured, merging=None, streaming_efficiency=None, stepping=None)
    for probe in (probe for probe in PROBES.values() if not probe.widths):
        seconds = [planned(CostModel(probe.workload, t), probe.placements(2), "", {}) for t in (measured, bare)]
        took, expected = (each.prediction.step_seconds for each in seconds)
        assert took == pytest.approx(expected, rel=2e-3)


def test_every_cost_is_told_by_some_probe():
    for cost in fields(Costs):
        dearer = replace(TRUTH, **{cost.name: 10 * getattr(TRUTH, cost.name)})
        ratios = [estimated_seconds(*case, dearer) / estimated_seconds(*case, TRUTH) for case in CASES]
        assert max(ratios) > 1.2, cost.name
