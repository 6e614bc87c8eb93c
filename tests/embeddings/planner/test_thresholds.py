"""The default plan: each size of table laid out by the rule that a person would read."""

import pytest

from embeddings.planner import TableSpec, Workload, load_topology, plan_tables

MEDIUM = TableSpec("medium", 1_000_000, 64)


@pytest.mark.parametrize(
    ("table", "hosts", "kind", "why"),
    [
        (TableSpec("t", 1_000, 16), 1, "data_parallel", "small"),
        (MEDIUM, 1, "table_wise", "medium"),
        (TableSpec("t", 1_000_000, 512), 1, "column_wise", "wide"),
        (TableSpec("t", 200_000_000, 64), 1, "row_wise", "huge"),
        (TableSpec("t", 200_000_000, 64), 4, "table_row_wise", "fits one host"),
        (TableSpec("t", 4_000_000_000, 64), 8, "row_wise", "huge"),
    ],
)
def test_each_size_has_its_rule_and_says_it(table, hosts, kind, why):
    planned = plan_tables(Workload((table,), 8_192), load_topology("dgx-a100").sized(hosts))
    assert planned.plan.tables[table.name].kind == kind
    assert why in planned.reasons[table.name]


def test_whole_tables_spread_over_ranks():
    tables = tuple(TableSpec(f"t{i}", 1_000_000, 64) for i in range(16))
    plan = plan_tables(Workload(tables, 8_192), load_topology("dgx-a100")).plan
    held = [table.ranks[0] for table in plan.tables.values()]
    assert sorted(held) == sorted([*range(8), *range(8)])


def test_a_kind_that_is_not_allowed_says_what_is_taken():
    planned = plan_tables(Workload((MEDIUM,), 8_192), load_topology("dgx-a100"), kinds=("row_wise",))
    assert planned.plan.tables["medium"].kind == "row_wise"
    assert "row_wise" in planned.reasons["medium"]


def test_where_a_rule_finds_no_room_another_kind_is_taken():
    tables = tuple(TableSpec(f"t{i}", 60_000_000, 64) for i in range(36))  # 16.3 GB each: four on a rank
    planned = plan_tables(Workload(tables, 8_192), load_topology("dgx-a100"))
    kinds = {table.kind for table in planned.plan.tables.values()}
    assert "table_wise" in kinds
    assert len(kinds) > 1
    assert any("found no room" in reason for reason in planned.reasons.values())
