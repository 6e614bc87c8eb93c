"""Fits that find again what measurements were made from."""

from dataclasses import astuple

import numpy as np
import pytest

from embeddings.planner.calibrate import PROBES, Costs, estimated_seconds, fitted_costs, machine_topology
from embeddings.planner.enumeration import ShardingOption
from embeddings.planner.estimate import CostModel
from embeddings.planner.loads import Placement

TRUTH = Costs(launch=4e-6, grouping=2e-8, byte=2e-10, latency=1e-3, sent=2e-9)
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
    topology = machine_topology(2, copy=1e10, flops=5e10, dense_flops=3e10, costs=TRUTH)
    assert topology.flops * topology.flops_efficiency == pytest.approx(3e10)
    placement = Placement(ShardingOption("row_wise"), (0, 1))
    for probe in PROBES.values():
        costs = CostModel(probe, topology)
        load = np.sum([costs.load(table, placement) for table in probe.tables], axis=0)
        assert costs.step_seconds(load) == pytest.approx(estimated_seconds(probe, 2, TRUTH), rel=1e-3)


def test_one_rank_alone_has_a_link_that_costs_nothing():
    costs = fitted_costs([(probe, 1, estimated_seconds(probe, 1, TRUTH)) for probe in PROBES.values()])
    topology = machine_topology(1, copy=1e10, flops=5e10, dense_flops=3e10, costs=costs)
    assert topology.ranks == 1
    assert topology.kernel_launch == pytest.approx(TRUTH.launch, rel=1e-3)
    assert (topology.intra_host.latency, topology.intra_host.speed) == (0.0, 1e10)
