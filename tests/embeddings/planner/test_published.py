"""Predictions beside published step times: `python tests/embeddings/planner/test_published.py` prints them.

NVIDIA's distributed-embeddings, examples/benchmarks/synthetic_models/README.md: DGX A100, global batch 65,536, Adagrad.
The topology has datasheet bandwidths and one efficiency for each resource. Tiny and Small were in sight when those were
chosen; Medium was not.
"""

from pathlib import Path

import pytest
from rich.console import Console
from rich.table import Table

from embeddings.planner import load_tables, load_topology, plan_tables

TABLES = Path(__file__).parents[3] / "configs" / "tables"
PUBLISHED = {  # milliseconds by model and number of GPUs
    "tiny": {1: 24.433, 8: 5.537, 16: 4.867},
    "small": {1: 67.355, 8: 17.203, 16: 12.461, 32: 11.839},
    "medium": {8: 63.393, 16: 46.636, 32: 37.732, 128: 27.329},
}
CASES = [(model, gpus) for model, times in PUBLISHED.items() for gpus in times]
AS_PUBLISHED = ("table_wise", "column_wise")  # what that system shards by


def predicted(model, gpus, exchange="pooled", kinds=AS_PUBLISHED):
    """Of a step on so many A100s of DGX hosts."""
    topology = load_topology("dgx-a100").sized(max(gpus // 8, 1), min(gpus, 8))
    workload = load_tables(TABLES / f"synthetic-{model}.yaml")
    return plan_tables(workload, topology, "greedy", kinds, exchange=exchange).prediction


@pytest.mark.parametrize(("model", "gpus"), CASES)
def test_a_published_step_time_is_predicted_within_a_quarter(model, gpus):
    assert 1e3 * predicted(model, gpus).step_seconds == pytest.approx(PUBLISHED[model][gpus], rel=0.25)


@pytest.mark.parametrize(
    ("model", "tables", "gibibytes"), [("tiny", 55, 4.2), ("small", 107, 26.3), ("medium", 311, 206.2)]
)
def test_the_tables_are_those_that_were_published(model, tables, gibibytes):
    workload = load_tables(TABLES / f"synthetic-{model}.yaml")
    assert len(workload.tables) == tables
    assert sum(t.rows * t.dim * 4 for t in workload.tables) / 2**30 == pytest.approx(gibibytes, abs=0.05)


def main():
    table = Table(
        "model", "GPUs", "published ms", "predicted ms", "error", "compute", "memory", "wire", "headrace's own"
    )
    for model, gpus in [*CASES[:3], ("tiny", 32), *CASES[3:]]:
        found, ms = predicted(model, gpus), PUBLISHED[model].get(gpus)
        own = predicted(model, gpus, "distinct", ("data_parallel", "table_wise", "row_wise", "column_wise"))
        parts = (found.compute_seconds, found.memory_seconds, found.wire_seconds, own.step_seconds)
        told = (f"{ms:.2f}", f"{1e3 * found.step_seconds / ms - 1:+.1%}") if ms else ("not published", "")
        table.add_row(
            model, str(gpus), told[0], f"{1e3 * found.step_seconds:.2f}", told[1], *(f"{1e3 * s:.2f}" for s in parts)
        )
    Console(width=120).print(table)


if __name__ == "__main__":
    main()
