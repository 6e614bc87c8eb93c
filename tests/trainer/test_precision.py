"""Tables of 16 bits in a job: as good as float32, within its interval."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
WANTED = "ndcg@20"


def _run(folder, *words):
    job = [str(ROOT / "configs" / "demo.yaml"), "--run-dir", str(folder)]
    command = [sys.executable, "-m", "trainer.main", "run", *job, *words]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads((folder / "metrics.json").read_text())["retrieval"]["two_tower"][WANTED]


@pytest.mark.long
def test_on_the_demo_world_bfloat16_is_within_float32s_interval(tmp_path):
    precisions = [f"{stage}.embedding_precision=bfloat16" for stage in ("retrieval", "ranking")]
    known = _run(tmp_path / "float32")
    found = _run(tmp_path / "bfloat16", *(word for precision in precisions for word in ("--set", precision)))
    assert known["low"] <= found["value"] <= known["high"], (known, found)
    assert found["value"] != known["value"], "the tables really were another precision"
