"""What each index finds and how fast, at every effort: measured in turns."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from benchmarks.index_contenders import EXACT, Contender
from benchmarks.index_data import JUDGED, K, VectorSet
from benchmarks.interleaved import interleave
from benchmarks.peers import Peer, PeerMissing

BATCHES = (1, 256)
RECALL = 0.95  # @100, that rates are compared at
_WORTH = 0.9  # recall@100 below which no effort is timed: nobody would serve it
_FAR = 1.5  # times as fast at no less recall, seen once: an effort of that index is not timed any more


@dataclass(frozen=True)
class Rounds:
    """of_batches: rounds. batches, singles: calls of a turn, one after the other, at most; as few of them as take
    `seconds` where the rate is known. trial_singles: of the first round, from which it is."""

    of_batches: int = 9
    warmup: int = 1
    batches: int = 3
    singles: int = 50
    seconds: float = 0.3
    trial_singles: int = 5

    def calls(self, batch: int, rate: float | None) -> int:
        """Of a turn at this size of batch. rate: queries/s."""
        most = self.batches if batch > 1 else self.singles
        if rate is None:
            return min(most, 1 if batch > 1 else self.trial_singles)
        return max(min(most, int(self.seconds * rate / batch)), 1)


@dataclass(frozen=True)
class Point:
    """One index at one effort. recall: by the neighbours it is measured at. rates: queries/s by the batch's size."""

    contender: Contender
    effort: tuple[int, ...]
    recall: Mapping[int, float]
    rates: Mapping[int, float]

    @property
    def family(self) -> str:
        return self.contender.family

    @property
    def key(self) -> tuple[str, tuple[int, ...]]:
        """What is measured: the index and the effort."""
        return self.contender.name, self.effort


@dataclass(frozen=True)
class Built:
    contender: Contender
    seconds: float
    peak_bytes: float


@dataclass(frozen=True)
class Measured:
    points: tuple[Point, ...]
    built: tuple[Built, ...]
    notes: tuple[str, ...]
    facts: Mapping[str, str]


def measure(data: VectorSet, contenders: Sequence[Contender], rounds: Rounds, folder: Path) -> Measured:
    """All contenders on one set, each in a process of its own, all alive at once. One that ends is noted and left out.

    folder: for arrays that processes hand over.
    """
    built: list[Built] = []
    notes: list[str] = []
    facts: dict[str, str] = {}
    with ExitStack() as stack:
        alive: dict[str, tuple[Contender, Peer]] = {}
        for contender in contenders:
            try:
                file = Path("none")
                if contender.is_built:
                    file, made = contender.built(data.folder)
                    built.append(Built(contender, made["seconds"], made["peak_bytes"]))
                peer = stack.enter_context(contender.start())
                peer.ask({"load": contender.build, "source": str(data.folder), "file": str(file)})
                peer.ask({"queries": str(data.queries)})
            except PeerMissing as reason:
                notes.append(f"{data.name}: {contender.name}: {reason.message}")
                continue
            facts.update(peer.facts)
            alive[contender.name] = (contender, peer)
        recalls: dict[tuple[str, tuple[int, ...]], dict[int, float]] = {}
        for name, (contender, peer) in list(alive.items()):
            try:
                found = dict(_recalls(data, contender, peer, folder))
                recalls |= {(name, effort): recall for effort, recall in found.items() if recall[K] >= _WORTH}
                if not any(recall[K] >= RECALL for recall in found.values()):
                    most = max(found, key=lambda effort: found[effort][K])
                    notes.append(f"{data.name}: {name}: recall@100 is {found[most][K]:.4f} at most, at {list(most)}")
            except PeerMissing as reason:
                notes.append(f"{data.name}: {name}: {reason.message}")
                del alive[name]
        points: list[Point] = []
        asked = {key: alive[key[0]] for key in recalls if key[0] in alive}
        known: dict[tuple[str, tuple[int, ...]], Mapping[int, float]] = {}
        for each in (replace(rounds, of_batches=1), rounds):
            if points:
                known = {point.key: point.rates for point in near(points)}
                asked = {key: asked[key] for key in known}
            rates, ended = timed(asked, each, known)
            notes.extend(f"{data.name}: {name}: {reason}" for name, reason in ended.items())
            points = [Point(asked[key][0], key[1], recalls[key], found) for key, found in rates.items()]
    return Measured(tuple(points), tuple(built), tuple(notes), facts)


def _recalls(
    data: VectorSet, contender: Contender, peer: Peer, folder: Path
) -> Iterable[tuple[tuple[int, ...], dict[int, float]]]:
    """(effort, recall@10 and @100), the greatest effort first; the others only where it finds enough to be served."""
    wanted, file = data.neighbours(), folder / "found.npy"
    count = min(JUDGED, len(wanted))
    if contender.family in EXACT:
        count = min(count, 64)
    known: dict[tuple[int, ...], dict[int, float]] = {}
    for effort in reversed(contender.efforts):
        deciding = effort[: contender.finding]
        if deciding not in known:
            peer.ask({"neighbours": str(file), "effort": list(effort), "count": count})
            found = np.load(file, allow_pickle=False)
            known[deciding] = {k: _shared(found[:, :k], wanted[:count, :k]) for k in (10, K)}
        yield effort, known[deciding]
        if len(known) == 1 and known[deciding][K] < _WORTH:
            return


def _shared(found: np.ndarray, wanted: np.ndarray) -> float:
    """Mean share of each row of `wanted` that is in the same row of `found`."""
    return float((wanted[:, :, np.newaxis] == found[:, np.newaxis, :]).any(axis=2).mean())


def timed(
    asked: Mapping[tuple[str, tuple[int, ...]], tuple[Contender, Peer]],
    rounds: Rounds,
    known: Mapping[tuple[str, tuple[int, ...]], Mapping[int, float]],
) -> tuple[dict[tuple[str, tuple[int, ...]], dict[int, float]], dict[str, str]]:
    """(queries/s by batch, of medians over rounds in which all take turns, by contender's name and effort; why a
    contender's process ended, by its name: such a one has no rates). known: rates of an earlier round."""
    ended: dict[str, str] = {}
    rates: dict[tuple[str, tuple[int, ...]], dict[int, float]] = {key: {} for key in asked}
    for batch in BATCHES:
        turns, counts = {}, {}
        for (name, effort), (_, peer) in asked.items():
            count = rounds.calls(batch, known.get((name, effort), {}).get(batch))
            counts[name, effort] = count
            question = {"effort": list(effort), "batch": batch, "count": count}

            def turn(number: int, name: str = name, peer: Peer = peer, question: dict = question) -> float:
                if name in ended:
                    return float("inf")
                try:
                    first = number * question["batch"] * question["count"]
                    return float(peer.ask({**question, "first": first})["seconds"])
                except PeerMissing as reason:
                    ended[name] = reason.message
                    return float("inf")

            turns[f"{name}\n{effort}"] = turn
        times = interleave(turns, rounds.of_batches, rounds.warmup)
        for name, effort in asked:
            rates[name, effort][batch] = batch * counts[name, effort] / times[f"{name}\n{effort}"].median
    return {key: found for key, found in rates.items() if key[0] not in ended}, ended


def near(points: Sequence[Point]) -> list[Point]:
    """Those that, at some size of batch, no other of their family with no less recall is `_FAR` times as fast as."""

    def beaten(point: Point, batch: int) -> bool:
        return any(
            other.family == point.family
            and other.recall[K] >= point.recall[K]
            and other.rates[batch] > _FAR * point.rates[batch]
            for other in points
        )

    return [point for point in points if not all(beaten(point, batch) for batch in point.rates)]


def frontier(points: Iterable[Point], batch: int, k: int = K) -> list[Point]:
    """Those that no other beats both in recall@k and in rate, from the fastest on."""
    best: list[Point] = []
    for point in sorted(points, key=lambda p: (-p.rates[batch], -p.recall[k])):
        if not best or point.recall[k] > best[-1].recall[k]:
            best.append(point)
    return best


def fastest(points: Iterable[Point], batch: int, recall: float) -> Point | None:
    """The fastest of those with at least so much recall@100; None where none has it."""
    enough = [point for point in points if point.recall[K] >= recall]
    return max(enough, key=lambda point: point.rates[batch], default=None)
