"""The exported models are the trained ones and need no headrace; a damaged bundle is named, not served."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from foundation.errors import UserError
from foundation.tensors import to_tensors
from foundation.tf import tf
from inputs.entities import FeatureSpec
from inputs.ragged import Ragged
from serving.bundle import load_signature, read_card
from serving.funnel import Funnel
from serving.signatures import flatten, signature_of, unflatten

STOCK = """
import sys
import numpy as np
import tensorflow as tf

bundle, asked, answered = sys.argv[1:]
answers = {}
for model in ("query_tower", "item_tower", "ranker"):
    signature = tf.saved_model.load(f"{bundle}/{model}").signatures["serving_default"]
    with np.load(f"{asked}/{model}.npz") as inputs:
        outputs = signature(**{name: tf.constant(inputs[name]) for name in inputs})
    answers.update({f"{model}/{name}": value.numpy() for name, value in outputs.items()})
np.savez(answered, **answers)
ours = ("foundation", "embeddings", "retrieval", "ranking", "postranking", "serving", "inputs", "trainer")
loaded = [name for name in sys.modules if name.split(".")[0] in ours]
assert not loaded, loaded
"""


@pytest.fixture(scope="module")
def asked(served):
    """Inputs of three users (one a newcomer without history) and of 12 items, four a user."""
    users = np.array([3, 0, 17])
    histories = served.histories.before(users, np.full(3, served.card.now), 10)
    items = np.arange(0, 120, 10)
    return served.space.query_inputs(users, histories), served.space.item_inputs(items, served.card.now)


@pytest.fixture(scope="module")
def expected(served, asked) -> dict[str, np.ndarray]:
    """What the models in this process say, by model and output."""
    query, items = map(to_tensors, asked)
    predictions = served.ranker.predict(query, items, tf.constant([0, 4, 8, 12], tf.int64))
    outputs = {
        "query_tower/query": served.two_tower.embed_queries(query),
        "item_tower/candidate": served.two_tower.embed_items(items),
        "ranker/value": served.ranker.value(predictions),
        **{f"ranker/{name}": values for name, values in predictions.items()},
    }
    return {name: value.numpy() for name, value in outputs.items()}


@pytest.fixture(scope="module")
def flat(asked) -> dict[str, dict[str, np.ndarray]]:
    query, items = map(flatten, asked)
    return {
        "query_tower": query,
        "item_tower": items,
        "ranker": {**query, **items, "list_row_splits": np.array([0, 4, 8, 12])},
    }


class TestSavedModels:
    @pytest.mark.parametrize("model", ["query_tower", "item_tower", "ranker"])
    def test_equal_the_models_in_this_process(self, served, flat, expected, model):
        signature = load_signature(served.bundle / model)
        outputs = signature(**{name: tf.constant(value) for name, value in flat[model].items()})
        wanted = {name.split("/")[1]: value for name, value in expected.items() if name.startswith(model)}
        assert set(outputs) == set(wanted)
        for name, value in wanted.items():
            np.testing.assert_allclose(outputs[name], value, rtol=1e-5, atol=1e-5)

    def test_run_in_stock_tensorflow_without_headrace(self, served, flat, expected, tmp_path):
        for model, inputs in flat.items():
            np.savez(tmp_path / f"{model}.npz", **inputs)
        answered = tmp_path / "answers.npz"
        command = [sys.executable, "-I", "-c", STOCK, str(served.bundle), str(tmp_path), str(answered)]
        child = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False, timeout=120)
        assert child.returncode == 0, child.stderr
        with np.load(answered) as outputs:
            assert set(outputs) == set(expected)
            for name, value in expected.items():
                np.testing.assert_allclose(outputs[name], value, rtol=1e-5, atol=1e-5)

    def test_hold_the_models_variables_and_no_optimizer_state(self, served):
        names = [
            name for name, _ in tf.train.list_variables(str(served.bundle / "query_tower" / "variables" / "variables"))
        ]
        assert names
        assert not [name for name in names if "accumulator" in name or "adam" in name.lower()]
        stored = sum(f.stat().st_size for f in (served.bundle / "query_tower" / "variables").iterdir())
        assert stored < 100_000

    def test_the_candidate_vectors_are_the_item_towers(self, served):
        signature = load_signature(served.bundle / "item_tower")
        inputs = flatten(served.space.item_inputs(np.arange(120), served.card.now))
        outputs = signature(**{name: tf.constant(value) for name, value in inputs.items()})["candidate"]
        np.testing.assert_allclose(outputs, np.load(served.bundle / "candidates.npy"), atol=1e-5)


class TestSignatures:
    @settings(deadline=None, max_examples=30)
    @given(rows=st.lists(st.lists(st.integers(0, 50), max_size=4), min_size=1, max_size=6), seed=st.integers(0, 2**31))
    def test_flatten_and_unflatten_are_a_round_trip(self, rows, seed):
        rng = np.random.default_rng(seed)
        features = {
            "history": FeatureSpec("history", "categories", 51, "item"),
            "user": FeatureSpec("user", "category", 9, "user"),
            "age": FeatureSpec("age", "number"),
        }
        inputs = {
            "history": Ragged.from_rows(rows),
            "user": rng.integers(0, 9, len(rows)),
            "age": rng.normal(size=len(rows)).astype(np.float32),
        }
        flat = {name: tf.constant(value) for name, value in flatten(inputs).items()}
        specs = signature_of(features)
        assert set(flat) == set(specs)
        assert all(specs[name].is_compatible_with(value) for name, value in flat.items())
        again = unflatten(features, flat)
        assert again["history"].to_list() == rows
        for name in ("user", "age"):
            np.testing.assert_array_equal(again[name], inputs[name])


@pytest.fixture
def copy(served, tmp_path) -> Path:
    return Path(shutil.copytree(served.bundle, tmp_path / "copy"))


def refused(path: Path) -> UserError:
    with pytest.raises(UserError) as caught:
        Funnel.load(path)
    return caught.value


def cut(path: Path) -> None:
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])


class TestDamage:
    def test_the_card_comes_back(self, served):
        assert read_card(served.bundle) == served.card

    def test_a_moved_bundle_answers_the_same(self, served, copy, funnel, known_user):
        moved = shutil.move(copy, copy.with_name("moved"))
        again = Funnel.load(moved).recommend(known_user)
        assert again.items == funnel.recommend(known_user).items

    def test_no_folder_or_no_bundle_in_it(self, served, copy, tmp_path):
        assert f"{tmp_path / 'nowhere'}: no such folder" in refused(tmp_path / "nowhere").message
        (copy / "bundle.json").unlink()
        error = refused(copy)
        assert f"{copy}: no exported bundle" in error.message
        assert "headrace" in error.remedy

    @pytest.mark.parametrize("content", ["", "{", "[]", "{}", json.dumps({"format": 99}), json.dumps({"format": 1})])
    def test_a_manifest_that_is_none(self, copy, content):
        (copy / "bundle.json").write_text(content)
        assert str(copy / "bundle.json") in refused(copy).message

    @pytest.mark.parametrize("part", ["candidates.npy", "histories.npz", "space/columns.npz", "space/items.parquet"])
    @pytest.mark.parametrize("how", [cut, Path.unlink])
    def test_a_part_that_is_damaged_or_missing(self, copy, part, how):
        how(copy / part)
        named = copy / "space" if part.startswith("space") else copy / part
        assert str(named) in refused(copy).message

    @pytest.mark.parametrize("how", [cut, Path.unlink])
    def test_the_index(self, copy, how):
        part = max((path for path in (copy / "index").rglob("*") if path.is_file()), key=lambda p: p.stat().st_size)
        how(part)
        assert str(part) in refused(copy).message

    @pytest.mark.parametrize("model", ["query_tower", "ranker"])
    @pytest.mark.parametrize("part", ["saved_model.pb", "variables/variables.index", "variables/*.data*"])
    @pytest.mark.parametrize("how", [cut, Path.unlink])
    def test_a_saved_model(self, copy, model, part, how):
        how(next((copy / model).glob(part)))
        assert str(copy / model) in refused(copy).message
