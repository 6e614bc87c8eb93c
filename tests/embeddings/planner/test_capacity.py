"""A plan that cannot be: by how much, and what would fit."""

import re

import pytest

from embeddings.planner import PROPOSERS, TableSpec, Workload, load_topology, plan_tables
from foundation.errors import UserError

MODES = [None, *PROPOSERS]


@pytest.mark.parametrize("proposer", MODES)
def test_more_than_the_cluster_holds(proposer):
    tables = tuple(TableSpec(f"t{i}", 100_000_000, 256, optimizer="Adagrad") for i in range(4))
    with pytest.raises(UserError) as error:
        plan_tables(Workload(tables, 8_192), load_topology("dgx-a100"), proposer)
    found = re.search(
        r"take ([\d.]+) GB, and 8 x A100-SXM4-80GB .* have ([\d.]+) GB .*: ([\d.]+) GB too", str(error.value)
    )
    assert found
    need, have, short = map(float, found.groups())
    assert need == pytest.approx(819.2)
    assert short == pytest.approx(need - have, abs=0.5)
    assert "2 hosts like these would (--hosts 2)" in error.value.remedy
    assert "the optimizer RowWiseAdagrad for every table would" in error.value.remedy
    # what it says would fit, fits
    plan_tables(Workload(tables, 8_192), load_topology("dgx-a100").sized(hosts=2), proposer)


@pytest.mark.parametrize("proposer", MODES)
def test_what_saves_too_little_is_said_to(proposer):
    with pytest.raises(UserError) as error:
        plan_tables(Workload((TableSpec("t", 10**10, 256),), 64), load_topology("dgx-a100"), proposer)
    assert "RowWiseAdagrad and bfloat16 rows alone would not" in error.value.remedy


@pytest.mark.parametrize("proposer", MODES)
def test_a_table_too_large_for_a_device_under_kinds_that_do_not_split(proposer):
    tables = (TableSpec("big", 400_000_000, 64),)
    with pytest.raises(UserError, match=r"table 'big' takes 104 GB.* too little") as error:
        plan_tables(Workload(tables, 64), load_topology("dgx-a100"), proposer, ("table_wise", "data_parallel"))
    assert "row_wise" in error.value.remedy


@pytest.mark.parametrize("proposer", MODES)
def test_parts_that_do_not_pack(proposer):
    tables = tuple(TableSpec(f"t{i}", 150_000_000, 64) for i in range(9))  # 39 GB each: one a device
    with pytest.raises(UserError, match="some table finds no rank with room") as error:
        plan_tables(Workload(tables, 64), load_topology("dgx-a100"), proposer, ("table_wise",))
    assert "Allow row_wise" in error.value.remedy
    plan_tables(Workload(tables, 64), load_topology("dgx-a100"), proposer)


@pytest.mark.parametrize("proposer", MODES)
def test_a_batch_whose_embeddings_leave_no_room(proposer):
    tables = (TableSpec("t", 1_000, 4_096, features=64),)
    with pytest.raises(UserError, match="leaves tables nothing") as error:
        plan_tables(Workload(tables, 2**20), load_topology("dgx-a100"), proposer)
    assert "Lower batch_size" in error.value.remedy


@pytest.mark.parametrize("proposer", MODES)
def test_a_table_with_fewer_rows_than_ranks_under_row_wise_alone(proposer):
    with pytest.raises(UserError, match="no plan"):
        plan_tables(Workload((TableSpec("t", 3, 8),), 64), load_topology("dgx-a100"), proposer, ("row_wise",))
