"""Small clusters and tables."""

import pytest

from embeddings.planner import ClusterTopology, Link


@pytest.fixture(scope="session")
def cluster():
    """Makes a cluster of equal devices; its links and memory may be given."""

    def make(hosts=1, devices_per_host=2, memory=80e9, within=300e9, between=25e9, launch=5e-6):
        return ClusterTopology(
            "test",
            "device",
            hosts,
            devices_per_host,
            memory,
            2e12,
            0.5,
            1e14,
            0.5,
            launch,
            Link(within, 1.0, 2e-5),
            Link(between, 1.0, 4e-5),
        )

    return make
