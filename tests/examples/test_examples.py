"""The examples run as a newcomer runs them, and what they print has been learned."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).parents[2] / "examples"


@pytest.mark.parametrize(
    ("script", "printed", "at_least"),
    [
        ("keras_model.py", r"AUC on 5,000 impressions kept aside: (\d\.\d+)", 0.8),
        ("tfrs_retrieval.py", r"Hit rate@100 on [\d,]+ watches kept aside: (\d\.\d+)", 0.5),
        ("tfrs_towers.py", r"Hit rate@50 on [\d,]+ watches kept aside: (\d\.\d+)", 0.4),
    ],
)
def test_an_example_learns_what_it_claims(tmp_path, script, printed, at_least):
    done = subprocess.run(
        [sys.executable, EXAMPLES / script], capture_output=True, text=True, check=False, cwd=tmp_path, timeout=120
    )
    assert done.returncode == 0, done.stderr
    found = re.search(printed, done.stdout)
    assert found, done.stdout
    assert float(found[1]) >= at_least
    assert not list(tmp_path.iterdir()), "an example leaves nothing behind"
