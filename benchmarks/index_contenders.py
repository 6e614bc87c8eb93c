"""Who is measured on an index, how each is built, and at which efforts it is searched."""

from __future__ import annotations

import hashlib
import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.machine import cores
from benchmarks.peers import Peer, peers_command
from foundation.files import write_json

PROGRAM = Path(__file__).with_name("index_contender.py")
OURS, EXACT = "headrace", ("blas", "tensorflow")
PEERS = ("faiss_ivfpq", "faiss_ivfflat", "faiss_hnsw", "hnswlib", "hnswlib_l2")
_OF_PEERS = frozenset(PEERS)


@dataclass(frozen=True)
class Contender:
    """One built index, or one that needs no building (build has its "kind" alone). efforts: each as `index_contender`
    takes it, the greatest last. finding: how many of an effort's numbers, the first ones, decide what is found; None:
    all; the others how fast."""

    family: str
    build: dict[str, Any]
    efforts: tuple[tuple[int, ...], ...]
    finding: int | None = None

    @property
    def name(self) -> str:
        """The family and what tells its builds apart."""
        words = [f"{key} {value}" for key, value in self.build.items() if key != "kind" and value is not None]
        return " ".join([self.family, *words])

    @property
    def is_built(self) -> bool:
        return len(self.build) > 1

    def start(self) -> Peer:
        """Its process.

        Raises:
          PeerMissing: it does not load.
        """
        kind = self.build["kind"]
        if kind in _OF_PEERS:
            return Peer([*peers_command(PROGRAM), kind], self.family)
        return Peer([sys.executable, "-W", "ignore", "-m", "benchmarks.index_contender", kind], self.family)

    def built(self, source: Path) -> tuple[Path, dict[str, float]]:
        """(where its index lies, {"seconds", "peak_bytes"} of building it), kept beside the source and built once.

        Raises:
          PeerMissing: its process ends.
        """
        digest = hashlib.sha256(json.dumps(self.build, sort_keys=True).encode()).hexdigest()[:8]
        folder = source.with_name(f"{source.name}-built") / f"{self.family}-{digest}"
        facts, file = folder / "facts.json", folder / "index"
        if not facts.exists():
            folder.mkdir(parents=True, exist_ok=True)
            with self.start() as peer:
                write_json(facts, peer.ask({"build": self.build, "source": str(source), "file": str(file)}))
        return file, json.loads(facts.read_text())


def exact(size: int) -> list[Contender]:
    """TensorFlow's only where the scores of a batch of 256, which it holds at once, fit in 2 GB."""
    kinds = EXACT if 4 * 256 * size <= 2 << 30 else EXACT[:1]
    return [Contender(kind, {"kind": kind}, ((),)) for kind in kinds]


def ours(size: int, dim: int, settings: Sequence[dict[str, Any]], quick: bool) -> list[Contender]:
    """headrace's trees. settings: fields of `TreeSetting`, "leaves" in units of sqrt(size), "codes" in those of dim."""
    found = []
    for setting in settings:
        leaves = max(round(setting["leaves"] * size**0.5), 4)
        searched = sorted({max(round(leaves * share), 1) for share in ((0.1, 1.0) if quick else _SHARES)})
        reordered = (100, 200) if quick else _REORDERED
        efforts = tuple((each, reorder) for each in searched for reorder in reordered)
        build = {"kind": "scann", "leaves_to_search": 1, "reorder": 100, **setting, "leaves": leaves}
        if "codes" in build:
            build["codes"] = round(build["codes"] * dim)
        found.append(Contender(OURS, build, efforts))
    return found


def peers(size: int, dim: int, graphs: Mapping[str, Sequence[tuple[int, int]]], quick: bool) -> list[Contender]:
    """Each with the parameters that its documentation names first, on both sides of its default. graphs: of HNSW, by
    kind, (links, width while building) of each."""
    lists: Sequence[int] = (16,) if quick else (round(size**0.5), round(2 * size**0.5))
    wide: Sequence[int] = (100, 200) if quick else _WIDE
    threads = sorted({1, cores()})
    probed = (4, 16) if quick else _PROBED
    refined = (100, 200) if quick else _REORDERED
    found = [
        Contender(
            "faiss_ivfpq",
            {"kind": "faiss_ivfpq", "lists": count, "codes": dim // 2},
            tuple((probe, refine, thread) for probe in probed for refine in refined for thread in threads),
            finding=2,
        )
        for count in lists
    ]
    found += [
        Contender(
            "faiss_ivfflat",
            {"kind": "faiss_ivfflat", "lists": count},
            tuple((probe, thread) for probe in probed for thread in threads),
            finding=1,
        )
        for count in lists
    ]
    for kind, builds in graphs.items():
        for number, effort in ((8, 40),) if quick else builds:
            build = {"kind": kind, "links": number, "effort": effort}
            found.append(Contender(kind, build, tuple((width,) for width in wide)))
    return found


_SHARES = (0.002, 0.003, 0.0045, 0.007, 0.01, 0.015, 0.02, 0.03, 0.045, 0.07)  # of the leaves searched
_REORDERED = (100, 150, 200, 300, 400, 600, 1000)
_PROBED = (2, 4, 6, 8, 12, 16, 24, 32, 48, 64, 96, 128, 192, 256, 384)
_WIDE = (100, 115, 130, 150, 175, 200, 230, 260, 300, 350, 400, 500, 700, 1000)
