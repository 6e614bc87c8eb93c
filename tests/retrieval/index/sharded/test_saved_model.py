"""The SavedModel of an index answers as the index, in a process that knows TensorFlow and ScaNN alone."""

import subprocess
import sys

import numpy as np
import pytest

from foundation.errors import UserError
from retrieval.config import IndexConfig
from retrieval.index import Index, ShardedIndex, TreeSetting, build_sharded
from retrieval.index.sharded.saved_model import export_saved_model
from tests.retrieval.index.sources import clustered, write_npy

PROGRAM = """
import sys
sys.path = [entry for entry in sys.path if entry not in ("", sys.argv[1])]
import numpy as np, tensorflow as tf, scann
for path in sys.argv[2:]:
    queries = np.load(path + ".queries.npy")
    serve = tf.saved_model.load(path).signatures["serving_default"]
    serve(queries=tf.constant(queries[:1]))
    answer = serve(queries=tf.constant(queries))
    np.savez(path + ".answers.npz", **{name: value.numpy() for name, value in answer.items()})
    again = tf.saved_model.load(path).signatures["serving_default"](queries=tf.constant(queries))
    assert (again["ids"].numpy() == answer["ids"].numpy()).all()
assert not [name for name in sys.modules if name.split(".")[0] in ("foundation", "retrieval", "inputs")]
"""


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    ids = np.random.default_rng(3).permutation(20_000)[:3_000]
    return write_npy(tmp_path_factory.mktemp("source") / "s", ids, clustered(3_000))


def test_answers_are_the_index_s_own_bit_for_bit(tmp_path, source):
    queries = clustered(40, seed=1)
    wanted = {}
    for name, setting, shards in (
        ("trees", TreeSetting(30, 3, 60, reorder_precision="int8"), 2),
        ("by_queries", TreeSetting(30, 3, 60, codes=8), 2),
        ("exact", None, 2),
    ):
        build_sharded(source, tmp_path / f"{name}-index", setting, shards, 2)
        export_saved_model(tmp_path / f"{name}-index", tmp_path / name, k=25)
        wanted[name] = ShardedIndex.load(tmp_path / f"{name}-index").search(queries, 25)
    for name, size in (("job", 2_000), ("short", 12)):
        index = Index.build(clustered(size), IndexConfig(brute_force_below=100, target_recall=0.9), seed=0)
        index.save(tmp_path / f"{name}-index")
        export_saved_model(tmp_path / f"{name}-index", tmp_path / name, k=25)
        wanted[name] = index.search(queries, 25)
    for name in wanted:
        np.save(tmp_path / f"{name}.queries.npy", queries)
    subprocess.run(
        [sys.executable, "-c", PROGRAM, str(tmp_path / "nowhere"), *(str(tmp_path / name) for name in wanted)],
        check=True,
        cwd=tmp_path,
    )
    for name, (ids, scores) in wanted.items():
        answers = np.load(tmp_path / f"{name}.answers.npz")
        np.testing.assert_array_equal(answers["ids"], ids, err_msg=name)
        np.testing.assert_array_equal(answers["scores"], scores, err_msg=name)


@pytest.mark.parametrize(
    ("setting", "what"),
    [
        (TreeSetting(30, 3, 60, soar=1.5), "SOAR"),
        (TreeSetting(30, 3, 60, reorder_precision="bfloat16"), "reordering in bfloat16"),
    ],
)
def test_what_the_ops_cannot_hold_is_told(tmp_path, source, setting, what):
    build_sharded(source, tmp_path / "index", setting, 1, 1)
    with pytest.raises(UserError, match=what) as caught:
        export_saved_model(tmp_path / "index", tmp_path / "out")
    assert "--set index." in caught.value.remedy
    assert not (tmp_path / "out").exists()
