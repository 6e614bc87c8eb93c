import hashlib
import subprocess
import sys

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest

from inputs.simulate import world
from inputs.simulate.population import SECONDS_PER_DAY, start_of
from inputs.simulate.truth import Truth
from inputs.simulate.world import SCHEMA, simulate


def digests(folder):
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


@pytest.fixture(scope="module")
def events(small_world):
    return small_world.events(SCHEMA.event_columns)


def test_the_same_seed_gives_the_same_bytes_whatever_the_chunks(small_world, small_config, tmp_path, monkeypatch):
    expected = digests(small_world.path)
    assert len(expected) == 7  # manifest, users, items, events; the truth's three
    for lists in (1_000_000, 13):
        monkeypatch.setattr(world, "LISTS_PER_CHUNK", lists)
        simulate(small_config, tmp_path / str(lists))
        assert digests(tmp_path / str(lists)) == expected


def test_another_seed_gives_another_world(small_world, small_config, tmp_path):
    other = simulate(small_config.model_copy(update={"seed": 8}), tmp_path / "other")
    assert other.fingerprint != small_world.fingerprint


def test_the_log_holds_what_was_asked_for(small_world, small_config, events):
    assert small_world.users.num_rows == small_config.users
    assert small_world.items.num_rows == small_config.items
    assert small_world.num_events == small_config.impressions
    assert small_world.schema == SCHEMA
    times, start = events["timestamp"].to_numpy(), start_of(small_config)
    assert np.all(np.diff(times) >= 0)
    assert np.unique((times - start) // SECONDS_PER_DAY).tolist() == list(range(small_config.days))
    assert pc.all(pc.is_in(events["user_id"], value_set=small_world.users["user_id"].combine_chunks())).as_py()
    assert len(set(small_world.items["title"].to_pylist())) == small_config.items


def test_each_list_is_one_request(small_config, events):
    size = small_config.slate_size
    lists = {name: events[name].to_numpy().reshape(-1, size) for name in ("user_id", "timestamp", "list_id", "item_id")}
    for name in ("user_id", "timestamp", "list_id"):
        assert (lists[name] == lists[name][:, :1]).all()
    assert len(np.unique(lists["list_id"][:, 0])) == len(lists["list_id"])
    assert (np.diff(np.sort(lists["item_id"], axis=1), axis=1) != 0).all()
    assert (events["position"].to_numpy().reshape(-1, size) == np.arange(size)).all()


def test_nothing_is_shown_before_it_is_published(small_world, events):
    published = dict(zip(*(small_world.items[name].to_pylist() for name in ("item_id", "published")), strict=True))
    since = np.array([published[item] for item in events["item_id"].to_pylist()])
    assert (events["timestamp"].to_numpy() > since).all()
    shown_late = since >= events["timestamp"].to_numpy().min()
    assert shown_late.any()  # videos that appeared during the log


def test_labels_are_told_only_after_a_click(small_world, events):
    clicked = events["click"].to_numpy() == 1
    assert 0.1 < clicked.mean() < 0.25
    for name in ("watch_seconds", "like"):
        np.testing.assert_array_equal(events[name].is_valid().to_numpy(), clicked)
    duration = dict(
        zip(*(small_world.items[name].to_pylist() for name in ("item_id", "duration_seconds")), strict=True)
    )
    kept = events.filter(pa.array(clicked))
    longest = np.array([duration[item] for item in kept["item_id"].to_pylist()])
    watched = kept["watch_seconds"].to_numpy()
    assert (watched >= 0).all()
    assert (watched <= longest + 0.1).all()


def test_propensities_are_probabilities_and_explore_is_uniform(small_world, small_config, events):
    propensity = events["propensity"].to_numpy()
    assert (propensity > 0).all()
    assert (propensity <= 1).all()
    explore = pc.equal(events["surface"], "explore").to_numpy()
    day = (events["timestamp"].to_numpy() - start_of(small_config)) // SECONDS_PER_DAY
    midnights = start_of(small_config) + np.arange(small_config.days) * SECONDS_PER_DAY
    there = (small_world.items["published"].to_numpy()[None, :] < midnights[:, None]).sum(axis=1)
    expected = 1.0 / (there[day] - events["position"].to_numpy())
    np.testing.assert_allclose(propensity[explore], expected[explore], rtol=1e-6)


def test_clicking_the_same_video_twice_is_rare(tmp_path, small_config):
    roomy = small_config.model_copy(update={"items": 20_000, "impressions": 60_000, "users": 1_000})
    events = simulate(roomy, tmp_path / "roomy").events(["user_id", "item_id", "click"])
    clicks = events.filter(pc.equal(events["click"], 1)).group_by(["user_id", "item_id"]).aggregate([("click", "sum")])
    assert pc.mean(pc.greater(clicks["click_sum"], 1).cast(pa.float64())).as_py() < 0.03


@pytest.mark.parametrize("failure", [RuntimeError, KeyboardInterrupt])
def test_nothing_half_written_remains(tmp_path, small_config, failure):
    def stop(rows):
        raise failure

    with pytest.raises(failure):
        simulate(small_config, tmp_path / "world", stop)
    assert list(tmp_path.iterdir()) == []


def test_progress_adds_up_to_the_impressions(tmp_path, small_config):
    rows = []
    odd = small_config.model_copy(update={"impressions": 4_007})
    dataset = simulate(odd, tmp_path / "odd", rows.append)
    assert sum(rows) == dataset.num_events == 4_000  # whole lists


def test_ids_and_their_order_tell_nothing_of_popularity(small_world, small_config):
    truth = Truth.open(small_world.path)
    for array in (truth.items.ids, np.arange(small_config.items)):
        assert abs(np.corrcoef(array, truth.items.log_popularity)[0, 1]) < 0.1


@pytest.mark.long
def test_memory_does_not_grow_with_the_log(tmp_path):
    script = (
        "import resource, sys; from inputs.simulate.config import SimulateConfig;"
        "from inputs.simulate.world import simulate; days = int(sys.argv[1]);"
        "simulate(SimulateConfig(days=days, impressions=days * 100_000), sys.argv[2]);"
        "print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)"
    )
    peaks = [
        int(subprocess.check_output([sys.executable, "-c", script, str(days), str(tmp_path / str(days))]))
        for days in (10, 60)
    ]
    assert peaks[1] < 1.1 * peaks[0]
