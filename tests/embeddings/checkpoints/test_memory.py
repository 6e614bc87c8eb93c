"""Reading tables takes little more memory than they."""

import subprocess
import sys

import pytest

_SAVE = """
import sys
import numpy as np
from embeddings import save_tables
from embeddings.sharding import ShardingPlan, TableSharding
from tests.embeddings.checkpoints.test_memory import tables
from tests.embeddings.checkpoints.worlds import world
from embeddings.sharding.held import buckets_of_hashes, id_hashes
from foundation.tf import tf
for table in tables():
    plan = ShardingPlan(2, {table.name: TableSharding(table.name, "row_wise", (0, 1))})
    for layer in world([table], plan):
        if table.name == "open":
            (shard,) = layer.shards()
            for ids in np.array_split(np.arange(1_000_000), 20):
                mine = ids[np.isin(buckets_of_hashes(id_hashes(ids)), shard.buckets)]
                shard.held.find_or_insert([tf.constant(mine)])
        save_tables(layer, f"{sys.argv[1]}/{table.name}")
"""

_RESTORE = """
import sys
from pathlib import Path
import numpy as np
from embeddings import restore_tables, save_tables
from foundation.tf import tf
from tests.embeddings.checkpoints.test_memory import tables, warm
from tests.embeddings.checkpoints.worlds import alone
def status(what):
    lines = Path("/proc/self/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith(what)).split()[1]) * 1024
for table in warm():  # what the libraries take for themselves
    layer = alone([table])
    save_tables(layer, f"{sys.argv[1]}/warm-{table.name}")
    restore_tables(layer, f"{sys.argv[1]}/warm-{table.name}")
name = sys.argv[2]
(table,) = [table for table in tables() if table.name == name]
before = status("VmRSS")
layer = alone([table])
restore_tables(layer, f"{sys.argv[1]}/{name}")
peak = status("VmHWM") - before
(shard,) = layer.shards()
variables = (shard.held.rows, *shard.held.slots.values())
shapes = [(v.dtype.size, tf.raw_ops.VariableShape(input=v.handle)) for v in variables]
held = sum(size * int(np.prod(shape)) for size, shape in shapes)
held += 48 * int(shapes[0][1][0]) if name == "open" else 0  # an id, and its entry in a table that is half empty
print(peak, held)
"""


_COPY = """
import sys
from pathlib import Path
from embeddings.checkpoints.compare import compare_tables
from embeddings.checkpoints.export import export_tables
from embeddings.checkpoints.reshard import reshard_tables
def status(what):
    lines = Path("/proc/self/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith(what)).split()[1]) * 1024
root, name, what = Path(sys.argv[1]), *sys.argv[2:]
before = status("VmRSS")
if what == "reshard":
    reshard_tables(root / name, root / f"{name}-three", 3)
elif what == "export":
    (root / f"{name}-out").mkdir()
    export_tables(root / name, root / f"{name}-out")
else:
    assert compare_tables(root / name, root / f"{name}-three")[name].same
print(status("VmHWM") - before)
"""


def tables():
    from embeddings import TableConfig

    return [TableConfig("static", 1_500_000, 64), TableConfig("open", None, 64)]


def warm():
    from embeddings import TableConfig

    return [TableConfig("static", 200_000, 64), TableConfig("open", None, 64)]


@pytest.mark.long
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")
def test_restoring_at_another_world_size_holds_no_second_copy(tmp_path):
    def run(program, *arguments):
        command = [sys.executable, "-c", program, str(tmp_path), *arguments]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout

    run(_SAVE)
    for name in ("static", "open"):
        peak, held = map(int, run(_RESTORE, name).split())
        assert held > 200_000_000
        assert peak <= 1.2 * held + 200_000_000
        for what in ("reshard", "diff", "export"):  # less than a table's rows, whatever its size
            assert int(run(_COPY, name, what)) <= 300_000_000, (name, what)
