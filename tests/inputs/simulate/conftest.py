import pytest

from inputs.simulate.config import SimulateConfig
from inputs.simulate.world import simulate

SMALL = SimulateConfig(users=300, items=1_500, days=4, impressions=40_000, seed=7)


@pytest.fixture(scope="session")
def small_config():
    return SMALL


@pytest.fixture(scope="session")
def small_world(tmp_path_factory):
    """A small world's dataset."""
    return simulate(SMALL, tmp_path_factory.mktemp("worlds") / "small")
