"""Killed again and again, saving included: under every sharding type the same bits."""

import sys
from pathlib import Path

import numpy as np
import pytest

from embeddings.sharding import KINDS
from foundation.errors import UserError
from trainer.supervisor.supervise import supervise

PROGRAM = Path(__file__).with_name("killed_program.py")
EVERYTHING = [*KINDS, *(f"{kind}+dynamic" for kind in KINDS), "row_wise+pooled", "row_wise+rejecting"]
ROOT = PROGRAM.parents[2]
MOST_KILLS = 60


def _trained(out, steps, seed, scenarios):
    """Runs it, with kills at moments that a seed from 0 on decides, until it is done: (how often it was killed,
    arrays by scenario and rank)."""
    out.mkdir()
    kills = 0
    while True:
        now = str(seed + kills if seed >= 0 else -1)
        command = [sys.executable, str(PROGRAM), str(out), str(steps), now, *scenarios]
        try:
            supervise(command, 2, environment={"PYTHONPATH": str(ROOT)})
            break
        except UserError as error:
            kills += 1
            if seed < 0 or kills > MOST_KILLS or "was killed" not in error.message:
                raise
    found = {}
    for scenario in scenarios:
        for rank in range(2):
            with np.load(out / f"{scenario}-{rank}.npz") as arrays:
                found[scenario, rank] = dict(arrays)
    return kills, found


def _assert_same(tmp_path, steps, scenarios, least):
    _, undisturbed = _trained(tmp_path / "undisturbed", steps, -1, scenarios)
    kills, killed = _trained(tmp_path / "killed", steps, 0, scenarios)
    assert kills >= least
    for key, arrays in undisturbed.items():
        assert arrays.keys() == killed[key].keys()
        different = [name for name in arrays if not np.array_equal(arrays[name], killed[key][name])]
        assert different == [], key


@pytest.mark.long
def test_killed_under_every_sharding_type_it_ends_with_the_same_bits(tmp_path):
    _assert_same(tmp_path, 40, EVERYTHING, least=5)
