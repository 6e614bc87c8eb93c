import shutil

import numpy as np
import pyarrow.compute as pc
import pytest

from foundation.errors import UserError
from inputs.dataset import Dataset
from inputs.simulate.config import SimulateConfig
from inputs.simulate.measure import measure
from inputs.simulate.population import SECONDS_PER_DAY
from inputs.simulate.truth import Truth
from inputs.simulate.world import simulate

# Relative tolerances promised for a log with some 20,000 clicks on explored items.
TOLERANCE = {
    "position_decay": 0.1,
    "popularity_exponent": 0.1,
    "novelty_half_life_days": 0.25,
    "novelty_drop": 0.1,
    "clickbait_share": 0.1,
}


@pytest.mark.parametrize(
    "traps",
    [
        {"seed": 1},
        {
            "seed": 2,
            "position_decay": 1.0,
            "popularity_exponent": 1.2,
            "novelty_half_life_days": 8.0,
            "novelty_drop": 0.8,
            "clickbait_share": 0.1,
        },
    ],
)
def test_traps_measured_from_the_logs_match_the_parameters(tmp_path, traps):
    config = SimulateConfig(
        users=5_000, items=10_000, impressions=800_000, explore_share=0.7, trending_share=0.2, **traps
    )
    found = measure(simulate(config, tmp_path / "world"))
    for name, tolerance in TOLERANCE.items():
        parameter, measured = found[name]
        assert parameter == getattr(config, name)
        assert measured == pytest.approx(parameter, rel=tolerance), name


def test_what_is_clicked_is_not_what_satisfies(small_world):
    found = measure(small_world)
    assert found["click_satisfaction_rank_correlation"][0] is None
    assert -0.3 < found["click_satisfaction_rank_correlation"][1] < 0.6
    assert found["clickbait_share_of_clicks"][1] > found["clickbait_share"][0] + 0.05
    assert 0.1 < found["click_rate"][1] < 0.25


def test_a_thin_log_gives_nan_not_a_crash(tmp_path):
    config = SimulateConfig(users=5, items=200, days=1, impressions=10, explore_share=0, trending_share=0)
    found = measure(simulate(config, tmp_path / "thin"))
    assert np.isnan(found["position_decay"][1])
    assert np.isnan(found["click_satisfaction_rank_correlation"][1])


def test_a_log_without_truth_is_told(small_world, tmp_path):
    shutil.copytree(small_world.path, tmp_path / "copy", ignore=shutil.ignore_patterns("truth"))
    with pytest.raises(UserError, match="no truth"):
        measure(Dataset.open(tmp_path / "copy"))


def test_inverse_propensities_make_popular_traffic_answer_for_uniform_traffic(tmp_path):
    """The click rate at the first position, had items been drawn uniformly: estimated from the trending surface, whose
    draws favour the popular, against its exact value."""
    traps = {"popularity_exponent": 1.0, "explore_share": 0.0, "trending_share": 1.0}
    config = SimulateConfig(users=200, items=300, days=5, impressions=200_000, seed=2, **traps)
    dataset = simulate(config, tmp_path / "world")
    truth = Truth.open(dataset.path)
    events = dataset.events(["user_id", "timestamp", "position", "propensity", "click"])
    events = events.filter(pc.equal(events["position"], 0))
    users, times = events["user_id"].to_numpy(), events["timestamp"].to_numpy()
    there = truth.items.published[None, :] < (times // SECONDS_PER_DAY * SECONDS_PER_DAY)[:, None]
    requests, items = np.nonzero(there)
    first = np.zeros(len(requests))
    probability = truth.click_probability(users[requests], truth.items.ids[items], first, times[requests])
    uniform = (np.bincount(requests, probability) / there.sum(axis=1)).mean()

    click = events["click"].to_numpy().astype(float)
    weighted = click / (there.sum(axis=1) * events["propensity"].to_numpy())
    deviation = weighted.std() / np.sqrt(len(weighted))
    assert abs(weighted.mean() - uniform) < 4 * deviation
    assert click.mean() > uniform + 4 * deviation  # unweighted, the popular flatter the estimate
