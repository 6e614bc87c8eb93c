"""The order in which files are tested, two side by side: what takes minutes goes first, so that no tester waits at the
end for the other."""

import signal
from pathlib import Path

import pytest

ROOT = Path(__file__).parent
LONGEST = (  # each in turn to whichever tester is free; the second tester does not need what the first one makes
    "trainer/test_workers.py",
    "embeddings/sharding/test_law_1.py",
    "trainer/test_surviving.py",
    "trainer/test_resume.py",
    "trainer/test_tpu.py",
    "trainer/test_command_line.py",
    "trainer/test_pipeline.py",
    "trainer/test_nonfinite.py",
    "trainer/test_bad_weather.py",
    "ranking/test_ranker.py",
    "embeddings/kernels/test_build.py",
    "embeddings/test_parameter_server.py",
    "strategies/test_parameter_server.py",
    "embeddings/test_replicas.py",
    "embeddings/test_fused_training.py",
    "strategies/test_shared_memory.py",
    "strategies/test_communicators.py",
    "examples/test_examples.py",
    "trainer/test_warm_start.py",
    "trainer/supervisor/test_parameter_servers.py",
    "embeddings/checkpoints/test_ranks.py",
    "embeddings/test_tpu.py",
)

# A shell that starts them in the background has its children ignore these, and tests send them to commands they start.
for number, handler in ((signal.SIGINT, signal.default_int_handler), (signal.SIGHUP, signal.SIG_DFL)):
    if signal.getsignal(number) is signal.SIG_IGN:
        signal.signal(number, handler)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    place = {ROOT / name: number for number, name in enumerate(LONGEST)}
    items.sort(key=lambda item: place.get(item.path, len(LONGEST)))
