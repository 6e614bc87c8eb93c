"""An index under churn: a share of its items replaced while threads search it, and a new version taken up meanwhile."""

from __future__ import annotations

import subprocess
import sys
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest

from retrieval.index.exact import exact_top
from retrieval.index.live.build import tuned_builder
from retrieval.index.live.config import LiveConfig
from retrieval.index.live.index import LiveIndex
from retrieval.index.setting import TreeSetting
from retrieval.index.versions.reader import VersionedIndex
from retrieval.index.versions.versions import Versions

REPOSITORY = Path(__file__).parents[4]


def unit(size: int, dim: int, seed: int, clusters: int = 2_000) -> np.ndarray:
    """Clustered directions: a vector is its own best match, so what was upserted has an answer to be."""
    centres = np.random.default_rng(1_000).normal(size=(clusters, dim))
    rng = np.random.default_rng(seed)
    found = np.empty((size, dim), np.float32)
    for start in range(0, size, 100_000):
        rows = slice(start, min(start + 100_000, size))
        count = rows.stop - start
        found[rows] = centres[rng.integers(clusters, size=count)] + 0.6 * rng.normal(size=(count, dim))
    return found / np.linalg.norm(found, axis=1, keepdims=True)


@dataclass
class Seen:
    """What went on."""

    searches: int = 0
    failures: list[str] = field(default_factory=list)
    returned_deleted: int = 0
    not_found: int = 0
    recalls: list[float] = field(default_factory=list)
    seconds: list[float] = field(default_factory=list)
    versions: set[str] = field(default_factory=set)


class Churn:
    """An index, two threads that search it and a published version of it, and a mirror of what was done."""

    def __init__(self, size: int, dim: int, place: Path, setting: TreeSetting) -> None:
        config = LiveConfig(shadow_rate=0.001, target_recall=0.98, recall_floor=0.93, tree_from=1_000, build_threads=2)
        self.size, self.dim, self.place, self.seen = size, dim, place, Seen()
        self.queries, self.rng = unit(2_000, dim, seed=1), np.random.default_rng(7)
        began, builder = time.monotonic(), tuned_builder(config, setting)
        vectors = unit(size, dim, seed=0)
        self.index = LiveIndex.build(np.arange(size), vectors, config, builder=builder, queries=self.queries[:256])
        print(f"built in {time.monotonic() - began:.1f} s: {self.index.state.tree.searcher.setting}")
        self.index.save(place / "first")
        Versions(place / "root").publish(place / "first")
        self.versioned = VersionedIndex(place / "root", poll_seconds=0.2)
        self.clock, self.deleted_at = 0, np.full(2 * size, np.iinfo(np.int64).max)  # of updates; by id, when
        self.lock, self.ended = threading.Lock(), threading.Event()
        self.threads = [threading.Thread(target=self.search, args=(which,)) for which in range(2)]
        for thread in self.threads:
            thread.start()

    def search(self, which: int) -> None:
        rng = np.random.default_rng(which)
        while not self.ended.is_set():
            asked = self.queries[rng.integers(len(self.queries), size=1 if rng.random() < 0.8 else 64)]
            now, start = self.clock, time.monotonic()
            try:
                ids, _ = self.index.search(asked, 100)
                taken = time.monotonic() - start
                _, _, version = self.versioned.search_with_version(asked[:1], 100)
            except Exception as error:
                self.seen.failures.append(repr(error))
                continue
            with self.lock:
                self.seen.searches += 1
                self.seen.seconds.append(taken)
                self.seen.versions.add(version)
                self.seen.returned_deleted += int((self.deleted_at[ids[ids >= 0]] <= now).sum() + (ids < 0).sum())

    def replace(self, here: np.ndarray, third: int, number: int) -> np.ndarray:
        """A third of a batch deleted, a third with other vectors, a third new; returns the ids that are there then."""
        gone = self.rng.choice(len(here), third, replace=False)
        ids, here = here[gone], np.delete(here, gone)
        self.index.delete(ids)
        self.deleted_at[ids] = self.clock + 1
        self.clock += 1
        fresh = self.size + number * third + np.arange(third)
        new = np.concatenate([self.rng.choice(here, third, replace=False), fresh])
        vectors = unit(2 * third, self.dim, seed=100 + number)
        self.index.upsert(new, vectors)
        self.seen.not_found += int((self.index.search(vectors, 1)[0][:, 0] != new).sum())
        return np.concatenate([here, fresh])

    def look(self) -> None:
        """Recall against exact search; nothing is updated meanwhile."""
        sample = self.queries[self.rng.integers(len(self.queries), size=64)]
        with self.index.state.pinned() as view:
            there = np.flatnonzero(view.visible_mask())
            wanted = view.ids[exact_top(view.vectors, there, view.ids, sample, 100, None)[0]]
        found, _ = self.index.search(sample, 100)
        self.seen.recalls.append(float(np.mean([np.isin(w, f).mean() for w, f in zip(wanted, found, strict=True)])))

    def publish(self) -> subprocess.Popen:
        """A snapshot, published by a process of its own."""
        self.index.save(self.place / "later")
        command = [sys.executable, "-m", "trainer.main", "index", "publish", self.place / "root", self.place / "later"]
        return subprocess.Popen(command, cwd=REPOSITORY)

    def end(self) -> None:
        deadline = time.monotonic() + 300
        while self.versioned.version != "0002" and time.monotonic() < deadline:
            time.sleep(0.05)
        time.sleep(0.5)
        self.ended.set()
        for thread in self.threads:
            thread.join()
        self.index.close()
        self.versioned.close()


def churn(size: int, dim: int, share: float, batch: int, place: Path, setting: TreeSetting) -> Seen:
    """Replaces a share of the items, so many at once, while two threads search; publishes a version on the way."""
    began = time.monotonic()
    churned = Churn(size, dim, place, setting)
    seen, third, here = churned.seen, batch // 3, np.arange(size)
    rounds = round(size * share / (2 * third))
    publisher = None
    for number in range(rounds):
        here = churned.replace(here, third, number)
        if number % max(rounds // 20, 1) == 0:
            churned.look()
        if number == rounds // 3:
            publisher = churned.publish()
    assert publisher.wait() == 0
    churned.look()
    churned.end()
    stats, seconds = churned.index.stats(), np.array(seen.seconds)
    print(stats)
    print(
        f"{size:,} items, {rounds} rounds of {2 * third} replaced; {seen.searches:,} searches; p50 "
        f"{1e3 * np.median(seconds):.1f} p99 {1e3 * np.quantile(seconds, 0.99):.0f} most {1e3 * seconds.max():.0f} ms; "
        f"recall@100 least {min(seen.recalls):.4f} mean {np.mean(seen.recalls):.4f} of {len(seen.recalls)} looks; "
        f"failures {len(seen.failures)}, deleted returned {seen.returned_deleted}, upserted not found "
        f"{seen.not_found}; versions {sorted(seen.versions)}; {time.monotonic() - began:.0f} s"
    )
    assert stats.failure is None
    assert stats.size == len(here)
    return seen


def check(seen: Seen) -> None:
    assert not seen.failures
    assert seen.returned_deleted == 0
    assert seen.not_found == 0
    assert min(seen.recalls) >= 0.93
    assert seen.versions == {"0001", "0002"}


def test_a_small_index_under_churn(tmp_path):
    check(churn(6_000, 16, 0.3, 90, tmp_path, TreeSetting(60, 20, 500)))


@pytest.mark.long
def test_a_million_items_of_which_one_in_twenty_is_replaced(tmp_path):
    check(churn(1_000_000, 32, 0.05, 3_000, tmp_path, TreeSetting(2_000, 100, 1_000)))
