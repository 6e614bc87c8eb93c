"""Streaming frequency estimates against the true frequencies: `python -m benchmarks.frequency` prints the table."""

from __future__ import annotations

import argparse
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from foundation.tf import tf
from retrieval.frequency import StreamingFrequency
from retrieval.negatives.config import FrequencyConfig

COMMON = 100  # occurrences that an item is "seen often" from


@dataclass(frozen=True)
class Error:
    """Of one setting. common, rare: median relative error of an item's probability, of items that occurred at least
    `COMMON` times, and of the others that occurred; bias: of log probabilities, the mean over common ones; unseen: the
    largest probability of what never occurred."""

    buckets: int
    hashes: int
    rate: float
    common: float
    rare: float
    bias: float
    unseen: float


def errors(
    items: int = 10_000,
    batch_size: int = 1_024,
    steps: int = 1_000,
    exponent: float = 1.0,
    seed: int = 0,
    settings: Iterable[tuple[int, int, float]] | None = None,
) -> list[Error]:
    """Of estimates after so many batches of items drawn by a Zipf law. settings: (buckets, hashes, rate)."""
    shares = 1.0 / np.arange(1, items + 1) ** exponent
    shares /= shares.sum()
    rng = np.random.default_rng(seed)
    batches = [tf.constant(rng.choice(items, batch_size, p=shares), tf.int64) for _ in range(steps)]
    count = np.bincount(np.concatenate([batch.numpy() for batch in batches]), minlength=items)
    return [_error(setting, batches, shares, count, seed) for setting in settings or _settings(items)]


def error_table(rows: Iterable[Error]) -> str:
    """Markdown."""
    lines = [
        "| buckets | hashes | rate | error, items seen often | error, others | bias of log q | largest of unseen |",
        "|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        numbers = " | ".join(f"{number:.3f}" for number in (row.common, row.rare, row.bias))
        lines.append(f"| {row.buckets:,} | {row.hashes} | {row.rate:g} | {numbers} | {row.unseen:.1e} |")
    return "\n".join(lines)


def _settings(items: int) -> list[tuple[int, int, float]]:
    """Buckets about as many as items, and far more."""
    few = 1 << max(items - 1, 1).bit_length()
    sizes = [(few, 1), (few, 3), (1 << 16, 2)] if few < 1 << 16 else [(few, 1), (few, 3), (few << 3, 2)]
    return [(buckets, hashes, rate) for buckets, hashes in sizes for rate in (0.1, 0.01, 0.001)]


def _error(
    setting: tuple[int, int, float], batches: list[tf.Tensor], shares: np.ndarray, count: np.ndarray, seed: int
) -> Error:
    buckets, hashes, rate = setting
    estimate = StreamingFrequency(FrequencyConfig(buckets=buckets, hashes=hashes, rate=rate), len(shares), seed)
    update = tf.function(estimate.update, reduce_retracing=True)
    for batch in batches:
        update(batch)
    found = np.exp(estimate.log_q(tf.range(len(shares), dtype=tf.int64)).numpy())
    relative = np.abs(found / shares - 1)
    common, rare = count >= COMMON, (count > 0) & (count < COMMON)
    return Error(
        buckets,
        hashes,
        rate,
        common=_median(relative[common]),
        rare=_median(relative[rare]),
        bias=float(np.log(found / shares)[common].mean()) if common.any() else float("nan"),
        unseen=float(found[count == 0].max(initial=0.0)),
    )


def _median(values: np.ndarray) -> float:
    return float(np.median(values)) if len(values) else float("nan")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--items", type=int, default=10_000)
    parser.add_argument("--batch-size", type=int, default=1_024)
    parser.add_argument("--steps", type=int, default=1_000)
    arguments = parser.parse_args()
    print(error_table(errors(arguments.items, arguments.batch_size, arguments.steps)))


if __name__ == "__main__":
    main()
