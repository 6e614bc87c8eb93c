"""A layer over the replicas of one process: Keras fits it as it fits one in one piece, and misuse is said."""

from pathlib import Path

import numpy as np
import pytest

from tests.embeddings.sharding.groups import run_group

RTOL = 1e-5
PROGRAM = Path(__file__).with_name("replicas_program.py")


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    folder = tmp_path_factory.mktemp("replicas")
    run_group(PROGRAM, [str(folder)], 1, devices=2)
    return dict(np.load(folder / "found.npz"))


@pytest.mark.parametrize("model", ["subclassed", "functional"])
@pytest.mark.parametrize("what", ["losses", "evaluated", "predicted", "dense", "rows"])
def test_keras_fits_what_it_fits_in_one_piece(found, model, what):
    alone, together = found[f"alone/subclassed/{what}"], found[f"together/{model}/{what}"]
    np.testing.assert_allclose(together, alone, rtol=RTOL, atol=RTOL * np.abs(alone).max())


@pytest.mark.parametrize("how", ["eager", "traced", "exported"])
def test_rows_are_looked_up_outside_a_step_too(found, how):
    names = ["item", "tags", "each"] if how == "exported" else ["item", "tags", "each", "new"]
    for name in names:
        alone = found[f"alone/looked_up/{how}/{name}"]
        assert alone.size
        np.testing.assert_allclose(found[f"together/looked_up/{how}/{name}"], alone, rtol=1e-6)


def test_what_is_exported_holds_no_op_of_ours(found):
    assert found["together/looked_up/ops of ours"] == 0


def test_the_shards_of_all_replicas_are_held_by_name(found):
    held = [f"rank_{rank}/{table}" for rank in (0, 1) for table in ("items", "new", "tags")]
    assert found["together/looked_up/tables"].tolist() == held


@pytest.mark.parametrize(
    ("case", "message"),
    [
        ("training outside", "learn only in what strategy.run runs"),
        ("gradient outside", "learn only in what strategy.run runs"),
        ("of one rank", "cannot be used under MirroredStrategy with 2 replicas: it was made for 1"),
        ("sound", "none"),
        ("twice", "differentiate once"),
        ("unread", "none"),
        ("after unread", "was never differentiated"),
        ("sound again", "none"),
        ("unknown id", "item"),
        ("float16", "mixed_float16 among several ranks"),
    ],
)
def test_misuse_is_said(found, case, message):
    assert message in str(found[f"errors/{case}"])
