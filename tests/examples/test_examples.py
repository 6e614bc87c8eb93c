"""The examples run as they stand, and learn."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize(
    ("name", "figure", "chance"),
    [("keras_model", r"AUC on .*: (0\.\d+)", 0.5), ("tfrs_retrieval", r"Hit rate@100 .*: (0\.\d+)", 0.1)],
)
def test_an_example_learns(name, figure, chance):
    path = ROOT / "examples" / f"{name}.py"
    done = subprocess.run(
        [sys.executable, path], cwd=ROOT, env={"PATH": "/usr/bin:/bin", "PYTHONPATH": str(ROOT)},
        capture_output=True, text=True, check=False, timeout=180,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    found = re.search(figure, done.stdout.splitlines()[-1])
    assert found, done.stdout
    assert float(found[1]) > 1.3 * chance, done.stdout
