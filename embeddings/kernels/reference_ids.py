"""The id table's twin: the same ids, rows, admissions and evictions with numpy and Python's own dict.

`find_or_insert` runs as a `tf.numpy_function`. It is slow, and the plain statement of what the compiled one does
(kernels/native/id_table.h, id_ops.cc).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from embeddings.hashing import initial_rows, splitmix64_of
from embeddings.tables.identity import COUNTS, IdPolicy
from foundation.tf import tf

_DEPTH = 4
_MOST = 255
GROUP_BITS = 6  # as in kernels/native/id_groups.h
_LONGEST_UINT32 = (1 << 32) - 1


@dataclass
class _Entry:
    row: int
    frequency: int
    last_seen: int


@dataclass
class _Bucket:
    entries: dict[int, _Entry] = field(default_factory=dict)
    counters: np.ndarray = field(default_factory=lambda: np.zeros(0, np.uint8))
    counted: int = 0

    def admits(self, policy: IdPolicy, hashed: int, count: int, now: int) -> tuple[bool, int]:
        """(whether an id that came `count` times gets a row, how often it is taken to have come)."""
        if policy.admission == "frequency":
            seen = self._count(hashed, count)
            return seen >= policy.threshold, seen
        if policy.admission == "probability":
            of_id = int(splitmix64_of(np.uint64((policy.key + hashed) % 2**64)))
            draw = np.uint64((of_id + now * 0x9E3779B97F4A7C15) % 2**64)
            draws = splitmix64_of(draw + np.arange(count, dtype=np.uint64)) >> np.uint64(11)
            return bool(np.any(draws * 2.0**-53 < np.float32(policy.probability))), count
        return True, count

    def _count(self, hashed: int, count: int) -> int:
        places = splitmix64_of(np.uint64(hashed) + np.arange(1, _DEPTH + 1, dtype=np.uint64))
        places = (places % np.uint64(len(self.counters))).astype(np.int64)
        seen = min(int(self.counters[places].min()) + count, _MOST)
        self.counters[places] = np.maximum(self.counters[places], seen)
        self.counted += min(count, _MOST)
        if self.counted >= len(self.counters) // 2:
            self.counters //= 2
            self.counted = 0
        return seen

    def make_room(self, policy: IdPolicy, number: int, wanted: int, now: int) -> tuple[int, list[int]]:
        """(for how many ids there is room, the rows that are free again)."""
        victims: list[int] = []
        if policy.eviction == "ttl":
            period = max(policy.steps_to_live // 8, 1)
            if now % period == number % period:
                victims = sorted(i for i, e in self.entries.items() if e.last_seen + policy.steps_to_live <= now)
        share = policy.capacity >> policy.bucket_bits if policy.capacity else 2**62
        if policy.eviction in ("lru", "lfu") and len(self.entries) + wanted > share:
            most = len(self.entries) + min(wanted, share) - share + share // 16
            old = [i for i, e in self.entries.items() if e.last_seen != now]
            uses = {"lru": lambda e: (e.last_seen, e.frequency), "lfu": lambda e: (e.frequency, e.last_seen)}
            victims = sorted(old, key=lambda i: (uses[policy.eviction](self.entries[i]), i))[: max(most, 0)]
        freed = [self.entries.pop(victim).row for victim in victims]
        return max(min(wanted, share - len(self.entries)), 0), freed


class ReferenceIdTable:
    """What `NativeIdTable` is, without a compiler."""

    def __init__(self, policy: IdPolicy) -> None:
        self._policy = policy
        self._clear()

    def find(self, features: Sequence[tf.Tensor]) -> list[tf.Tensor]:
        """As `NativeIdTable.find`."""
        return self._called(self._find, features, 0)

    def find_or_insert(
        self,
        features: Sequence[tf.Tensor],
        identities: tf.Variable,
        rows: tf.Variable,
        slots: Sequence[tuple[tf.Variable, float]],
        scale: float,
        occurrences: Sequence[tf.Tensor] = (),
        first_column: int = 0,
    ) -> list[tf.Tensor]:
        """As `NativeIdTable.find_or_insert`."""
        occurrences = occurrences or [tf.ones_like(ids) for ids in features]
        *numbers, new_ids, new_rows, size = self._called(self._find_or_insert, features, 3, occurrences)
        size = size[0]
        for variable in (identities, rows, *(slot for slot, _ in slots)):
            _grow(variable, size)
        initial = initial_rows(new_ids, first_column + rows.shape[1], self._policy.key, scale)[:, first_column:]
        identities.scatter_update(tf.IndexedSlices(new_ids, new_rows))
        rows.scatter_update(tf.IndexedSlices(tf.cast(initial, rows.dtype), new_rows))
        for slot, value in slots:
            shape = tf.concat([tf.shape(new_rows), tf.shape(slot)[1:]], 0)
            slot.scatter_update(tf.IndexedSlices(tf.fill(shape, tf.cast(value, slot.dtype)), new_rows))
        return numbers

    def counts(self) -> tf.Tensor:
        """As `NativeIdTable.counts`."""
        return tf.numpy_function(self._told_counts, [], tf.int64)

    def state(self) -> dict[str, tf.Tensor]:
        """As `NativeIdTable.state`."""
        entries = sorted((i, e) for bucket in self._buckets for i, e in bucket.entries.items())
        columns = [[i, e.row, e.frequency, e.last_seen] for i, e in entries]
        ids, rows, frequencies, last_seen = np.array(columns, np.int64).reshape(-1, 4).T
        state = {"ids": ids, "rows": rows, "frequencies": frequencies, "last_seen": last_seen}
        state["counters"] = np.concatenate([bucket.counters for bucket in self._buckets])
        state["counted"] = np.array([bucket.counted for bucket in self._buckets], np.int64)
        state["counts"] = self._counts
        return {name: tf.constant(value) for name, value in state.items()}

    def restore(self, state: Mapping[str, tf.Tensor]) -> None:
        """As `NativeIdTable.restore`."""
        values = {name: np.asarray(value) for name, value in state.items()}
        self._clear()
        hashes = splitmix64_of(values["ids"].astype(np.uint64))
        columns = (values["ids"], hashes, values["frequencies"], values["last_seen"])
        for place, (i, hashed, frequency, seen) in enumerate(zip(*columns, strict=True)):
            self._buckets[self._bucket_of(int(hashed))].entries[int(i)] = _Entry(place + 1, int(frequency), int(seen))
        self._next_row = 1 + len(values["ids"])
        cells = sum(len(bucket.counters) for bucket in self._buckets)
        # else: under another admission or capacity, counting begins anew
        if len(values["counters"]) == cells and len(values["counted"]) == len(self._buckets):
            pieces = np.split(values["counters"], len(self._buckets))
            for bucket, piece, counted in zip(self._buckets, pieces, values["counted"], strict=True):
                bucket.counters, bucket.counted = piece.copy(), int(counted)
        self._counts = values["counts"].copy()
        self._counts[1] = len(values["ids"])

    def _told_counts(self) -> np.ndarray:
        return self._counts.copy()

    def _clear(self) -> None:
        policy = self._policy
        self._buckets = [_Bucket() for _ in range(1 << policy.bucket_bits)]
        if policy.admission == "frequency":
            for bucket in self._buckets:
                bucket.counters = np.zeros(max(policy.counters >> policy.bucket_bits, 16), np.uint8)
        self._counts = np.zeros(len(COUNTS), np.int64)
        self._free: list[int] = []
        self._next_row = 1

    def _bucket_of(self, hashed: int) -> int:
        return hashed >> (64 - self._policy.bucket_bits)

    @staticmethod
    def _called(function, features, more, besides=()):
        results = tf.numpy_function(function, [*features, *besides], [tf.int64] * (len(features) + more))
        results = results if isinstance(results, list | tuple) else [results]  # one comes alone
        for result, ids in zip(results, features, strict=False):
            result.set_shape(ids.shape)
        for result in results[len(features) :]:
            result.set_shape([None])
        return list(results)

    def _find(self, *features: np.ndarray) -> list[np.ndarray]:
        results = []
        for ids in features:
            distinct, places = np.unique(ids, return_inverse=True)
            rows = np.zeros(len(distinct), np.int64)
            for place, (i, hashed) in enumerate(zip(distinct, splitmix64_of(distinct.astype(np.uint64)), strict=True)):
                entry = self._buckets[self._bucket_of(int(hashed))].entries.get(int(i))
                rows[place] = entry.row if entry else 0
            results.append(rows[places])
        return results

    def _find_or_insert(self, *features_and_occurrences: np.ndarray) -> list[np.ndarray]:
        self._counts[0] += 1
        now = int(self._counts[0])
        half = len(features_and_occurrences) // 2
        features, occurrences = features_and_occurrences[:half], features_and_occurrences[half:]
        flat = np.concatenate(features)
        distinct, first, places = np.unique(flat, return_index=True, return_inverse=True)
        came = np.zeros(len(distinct), np.int64)
        np.add.at(came, places, np.concatenate(occurrences))
        hashes = splitmix64_of(distinct.astype(np.uint64))
        rows = np.zeros(len(distinct), np.int64)
        missing: list[int] = []
        for place in np.argsort(first):
            entry = self._buckets[self._bucket_of(int(hashes[place]))].entries.get(int(distinct[place]))
            if entry is None:
                missing.append(int(place))
                continue
            entry.frequency = min(entry.frequency + int(came[place]), _LONGEST_UINT32)
            entry.last_seen = now
            rows[place] = entry.row
        admitted = self._admitted(missing, distinct, hashes, came, now)
        for place, frequency in admitted:
            if self._free:
                row = self._free.pop()
            else:
                row, self._next_row = self._next_row, self._next_row + 1
            bucket = self._buckets[self._bucket_of(int(hashes[place]))]
            bucket.entries[int(distinct[place])] = _Entry(row, min(frequency, _LONGEST_UINT32), now)
            rows[place] = row
        self._counts[1] = self._next_row - 1 - len(self._free)
        self._counts[2] += len(admitted)
        fresh = [place for place, _ in admitted]
        split = np.split(rows[places], np.cumsum([len(ids) for ids in features])[:-1])
        return [*split, distinct[fresh].astype(np.int64), rows[fresh], np.array([self._next_row])]

    def _admitted(self, missing, distinct, hashes, came, now) -> list[tuple[int, int]]:
        """(place in `distinct`, frequency) of new ids that get a row, group of buckets by group."""
        policy = self._policy
        group_bits = min(policy.bucket_bits, GROUP_BITS)
        by_bucket: list[list[tuple[int, int]]] = [[] for _ in self._buckets]
        for place in missing:
            number = self._bucket_of(int(hashes[place]))
            admits, seen = self._buckets[number].admits(policy, int(hashes[place]), int(came[place]), now)
            if admits:
                by_bucket[number].append((place, seen))
            else:
                self._counts[4] += came[place]
        kept: set[int] = set()
        for number, bucket in enumerate(self._buckets):
            room, freed = bucket.make_room(policy, number, len(by_bucket[number]), now)
            self._free += freed
            self._counts[3] += len(freed)
            kept.update(place for place, _ in by_bucket[number][:room])
            self._counts[4] += sum(came[place] for place, _ in by_bucket[number][room:])
        seen_of = {place: seen for found in by_bucket for place, seen in found if place in kept}
        order = sorted((int(hashes[place]) >> (64 - group_bits), rank) for rank, place in enumerate(missing))
        return [(missing[rank], seen_of[missing[rank]]) for _, rank in order if missing[rank] in seen_of]


def _grow(variable: tf.Variable, size: tf.Tensor) -> None:
    """Gives a variable [n, ...] room for `size` rows, and an eighth more each time."""
    there = tf.shape(variable, tf.int64)[0]

    def grown() -> tf.Tensor:
        more = tf.maximum(size, there + there // 8) - there
        added = tf.zeros(tf.concat([[more], tf.shape(variable, tf.int64)[1:]], 0), variable.dtype)
        variable.assign(tf.concat([variable, added], 0))
        return tf.constant(True)

    tf.cond(size > there, grown, lambda: tf.constant(False))
