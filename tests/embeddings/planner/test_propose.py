"""Proposed plans: near the best there is, within memory, the same each time."""

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from embeddings.planner import PROPOSERS, TableSpec, Workload, load_topology, plan_tables
from embeddings.planner.capacity import table_memory
from embeddings.planner.enumeration import sharding_options
from embeddings.planner.estimate import CostModel
from embeddings.planner.loads import BYTES, LAUNCH, MEMORY, WIRE, Placement
from embeddings.planner.tables import Dense

DIMS = (8, 16, 32, 64, 128, 256)


def _placements(table, topology):
    """Every way to place a table, whatever its load."""
    ranks = range(topology.ranks)
    for option in sharding_options(table, topology):
        if option.kind == "table_wise":
            yield from (Placement(option, (rank,)) for rank in ranks)
        elif option.kind == "column_wise":
            yield from (Placement(option, chosen) for chosen in itertools.permutations(ranks, len(option.columns)))
        elif option.kind == "table_row_wise":
            yield from (Placement(option, topology.ranks_of(host)) for host in range(topology.hosts))
        else:
            yield Placement(option, tuple(ranks))


def exhaustive(workload, topology):
    """Seconds of the best plan there is; infinite if none fits."""
    costs = CostModel(workload, topology)
    totals = np.zeros((1, *costs.load(workload.tables[0], next(_placements(workload.tables[0], topology))).shape))
    *tables, last = (
        np.stack([costs.load(table, placement) for placement in _placements(table, topology)])
        for table in workload.tables
    )
    for loads in tables:
        totals = (totals[:, None] + loads[None]).reshape(-1, *loads.shape[1:])
    best = np.inf
    for load in last:  # one by one, to hold fewer at once
        found = totals + load
        seconds = (found[:, LAUNCH] + found[:, MEMORY]).max(axis=1) + found[:, WIRE].max(axis=(1, 2))
        seconds[found[:, BYTES].max(axis=1) > table_memory(costs)] = np.inf
        best = min(best, costs.fixed_seconds + seconds.min())
    return best


@st.composite
def instances(draw):
    """(workload, memory of a device as a share of what the tables take, hosts, devices per host, kernel launch)."""
    hosts, devices = draw(st.sampled_from([(1, 2), (1, 3), (2, 1), (3, 1), (2, 2)]))
    count = 3 if hosts * devices == 4 else draw(st.integers(4, 5))
    tables = tuple(
        TableSpec(
            f"t{i}",
            rows=int(10 ** draw(st.floats(1, 7))),
            dim=draw(st.sampled_from(DIMS)),
            pooling_factor=draw(st.sampled_from([1.0, 3.0, 20.0])),
            zipf_alpha=draw(st.sampled_from([0.0, 0.8, 1.05])),
            optimizer=draw(st.sampled_from(["SGD", "RowWiseAdagrad", "Adam"])),
            features=draw(st.sampled_from([1, 2])),
        )
        for i in range(count)
    )
    workload = Workload(tables, draw(st.sampled_from([512, 8_192, 65_536])))
    return workload, draw(st.sampled_from([0.7, 1.1, 3.0])), hosts, devices, draw(st.sampled_from([1e-7, 5e-6]))


@pytest.mark.parametrize("proposer", PROPOSERS)
@given(instance=instances())
@settings(max_examples=25, deadline=None, derandomize=True)
def test_the_bottleneck_is_within_5_percent_of_the_best_there_is(cluster, proposer, instance):
    workload, share, hosts, devices, launch = instance
    total = sum(table.bytes_of(table.rows) for table in workload.tables)
    width = 16 * workload.activation_width * workload.batch_size / (hosts * devices)
    topology = cluster(hosts, devices, memory=(share * total + width) / 0.9, launch=launch)
    best = exhaustive(workload, topology)
    assert np.isfinite(best)
    assert plan_tables(workload, topology, proposer).prediction.step_seconds <= 1.05 * best


def _random_workload(count, seed=0):
    rng = np.random.default_rng(seed)
    return Workload(
        tuple(
            TableSpec(
                f"t{i}", int(10 ** rng.uniform(1, 7.5)), int(rng.choice(DIMS)), float(rng.choice([1, 5, 20])), 1.05
            )
            for i in range(count)
        ),
        65_536,
        Dense.stack([1_000, 512, 1]),
    )


@pytest.mark.parametrize("proposer", [None, *PROPOSERS])
def test_a_plan_fits_names_every_table_and_is_the_same_each_time(proposer):
    workload, topology = _random_workload(40), load_topology("dgx-a100").sized(hosts=2)
    first, second = (plan_tables(workload, topology, proposer) for _ in range(2))
    assert first.document() == second.document()
    assert list(first.plan.tables) == [table.name for table in workload.tables]
    assert max(rank.bytes for rank in first.prediction.ranks) <= first.table_memory
    parts = (first.prediction.compute_seconds, first.prediction.memory_seconds, first.prediction.wire_seconds)
    assert sum(parts) == pytest.approx(first.prediction.step_seconds)
    restored = type(first.plan).from_document(first.plan.document())
    assert restored == first.plan
    assert restored.shards == first.plan.shards


def test_the_order_of_tables_changes_no_prediction_much():
    workload, topology = _random_workload(30), load_topology("dgx-a100")
    turned = Workload(workload.tables[::-1], workload.batch_size, workload.dense)
    one, other = (plan_tables(tables, topology, "greedy").prediction.step_seconds for tables in (workload, turned))
    assert one == pytest.approx(other, rel=0.02)


@pytest.mark.parametrize("proposer", PROPOSERS)
def test_the_cost_model_is_never_worse_than_thresholds(proposer):
    for seed in range(3):
        workload, topology = _random_workload(30, seed), load_topology("dgx-a100").sized(hosts=2)
        chosen, ruled = (plan_tables(workload, topology, how).prediction.step_seconds for how in (proposer, None))
        assert chosen <= ruled * 1.001


@pytest.mark.parametrize("proposer", [None, *PROPOSERS])
def test_only_allowed_kinds_are_used(proposer):
    kinds = ("row_wise", "column_wise")
    plan = plan_tables(_random_workload(20), load_topology("dgx-a100"), proposer, kinds).plan
    assert {table.kind for table in plan.tables.values()} <= set(kinds)


def test_a_thousand_tables_on_128_devices():
    planned = plan_tables(_random_workload(1_000), load_topology("dgx-a100").sized(hosts=16))
    assert len(planned.plan.tables) == 1_000


@pytest.mark.parametrize("proposer", [None, *PROPOSERS])
def test_one_rank_holds_all(proposer):
    planned = plan_tables(_random_workload(3), load_topology("dgx-a100").sized(1, 1), proposer)
    assert {table.kind for table in planned.plan.tables.values()} == {"table_wise"}
