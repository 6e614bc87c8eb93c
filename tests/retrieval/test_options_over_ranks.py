"""Law 1: under each option of the loss several ranks train what one does with the whole batch."""

from pathlib import Path

import numpy as np
import pytest

from tests.embeddings.sharding.groups import run_group
from tests.retrieval.options_program import SCENARIOS

PROGRAM = Path(__file__).parent / "options_program.py"
RTOL = 1e-5


def _trained(folder, ranks, scenarios, devices=None):
    """{scenario: [rank] arrays by name}"""
    log = folder / f"log-{ranks}-{devices}"
    log.mkdir()
    run_group(PROGRAM, [str(folder), str(log), *scenarios], ranks, devices)
    return {each: [dict(np.load(folder / f"{each}-{rank}.npz")) for rank in range(ranks)] for each in scenarios}


def _assert_same(alone, together):
    wrong = {
        (scenario, rank, name): float(np.abs(ours[name] - value).max())
        for scenario, ranks in together.items()
        for rank, ours in enumerate(ranks)
        for name, value in alone[scenario][0].items()
        if not np.allclose(ours[name], value, rtol=RTOL, atol=RTOL * max(np.abs(value).max(), 1e-3))
    }
    assert not wrong


@pytest.mark.long
@pytest.mark.parametrize("scenarios", [["everything"], [*SCENARIOS]])
def test_two_ranks_and_two_replicas_train_what_one_does(scenarios, tmp_path):
    folders = [tmp_path / name for name in ("alone", "together", "replicas")]
    for folder in folders:
        folder.mkdir()
    alone = _trained(folders[0], 1, scenarios)
    _assert_same(alone, _trained(folders[1], 2, scenarios))
    _assert_same(alone, _trained(folders[2], 1, scenarios, devices=2))
