"""One training for all shards: what is found does not depend on how many there are."""

import numpy as np
import pytest

from foundation.errors import UserError
from retrieval.index import Effort, Searcher, TreeSetting
from retrieval.index.recall import recall_of
from retrieval.index.sharded.index import merged
from retrieval.index.sharded.shard import IDS, build_shard, ranges_of
from retrieval.index.sharded.trained import train
from retrieval.index.sources.source import open_source
from tests.retrieval.index.sources import clustered, write_npy

SIZE, LEAVES = 3_000, 60


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
@pytest.mark.parametrize("codes", [None, 8])
def test_shards_find_what_one_tree_finds(tmp_path, codes, precision):
    queries = clustered(50, seed=1)
    setting = TreeSetting(LEAVES, 4, SIZE, reorder_precision=precision, training_sample=1_000, codes=codes)
    source = open_source(write_npy(tmp_path / "source", np.arange(SIZE) * 2, clustered(SIZE)))
    train(source, setting, clustered(300, seed=2), tmp_path / "tree", 0)
    found = {}
    for shards in (1, 4, 100):  # the last have fewer vectors than there are leaves
        answers = []
        for number, rows in enumerate(ranges_of(SIZE, shards)):
            folder = tmp_path / f"{shards}-{number}"
            build_shard(source, rows, setting, folder, tmp_path / "tree")
            places, scores = Searcher.load(folder).search(queries, 30, Effort(4, SIZE))
            answers.append((np.where(places < 0, -1, np.load(folder / IDS)[places]), scores))
        found[shards] = merged(answers, 30)
    for shards in (4, 100):
        assert recall_of(found[shards][0], found[1][0]) == 1.0
        np.testing.assert_allclose(found[shards][1], found[1][1], rtol=1e-6)


def test_a_vector_of_the_sample_that_is_not_finite_is_named(tmp_path):
    vectors = clustered(500)
    vectors[123, 2] = np.inf
    source = open_source(write_npy(tmp_path / "source", np.arange(500) * 2, vectors))
    with pytest.raises(UserError, match="the vector of id 246"):
        train(source, TreeSetting(10, 2, 50), None, tmp_path / "tree", 0)
    assert not (tmp_path / "tree").exists()
