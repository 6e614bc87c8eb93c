"""What a tuner measured, as JSON and as a picture."""

from __future__ import annotations

import textwrap
from dataclasses import asdict
from pathlib import Path
from typing import Any

from foundation.errors import UserError, damaged
from foundation.files import atomic_file, read_json, write_json
from retrieval.index.setting import TreeSetting
from retrieval.index.tuner.measure import BATCH, Point
from retrieval.index.tuner.tune import Tuned, describe

_FORMAT = 1
_SIZE = (6.0, 4.0)  # inches
_CHARACTERS = 80  # of a line as wide


def write_tuned(path: Path, tuned: Tuned) -> None:
    """Writes all that was measured: chosen, exact, frontier and every point, with the protocol."""
    document = {
        "format": _FORMAT,
        "protocol": f"recall@{tuned.k}; queries/s in batches of {BATCH}, at best; half of the queries choose",
        "target_recall": tuned.target,
        "k": tuned.k,
        "queries": tuned.queries,
        "size": tuned.size,
        "dim": tuned.dim,
        "chosen": _as_json(tuned.chosen),
        "exact": _as_json(tuned.exact),
        "frontier": [_as_json(point) for point in tuned.frontier],
        "points": [_as_json(point) for point in tuned.points],
    }
    write_json(path, document)


def read_chosen(path: Path) -> tuple[TreeSetting | None, int, float]:
    """(the setting that was chosen, None: exact search; for how many vectors; the recall that was wanted).

    Raises:
      UserError: the file is missing, or none that `write_tuned` wrote.
    """
    document = read_json(path, "what `headrace index tune` measured")
    if not isinstance(document, dict) or document.get("format") != _FORMAT:
        raise UserError(f"{path}: not a file of `headrace index tune --json`.", "Tune again.")
    with damaged(path, "Tune again."):
        setting = document["chosen"]["setting"]
        return (
            None if setting is None else TreeSetting(**setting),
            int(document["size"]),
            float(document["target_recall"]),
        )


def draw_frontier(path: Path, tuned: Tuned) -> None:
    """Writes a picture of recall over queries per second: every point, the frontier, the choice, exact search."""
    import matplotlib

    matplotlib.use("agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=_SIZE, layout="constrained")
    trees = [point for point in tuned.points if point.setting is not None]
    axes.scatter([p.recall for p in trees], [p.rate for p in trees], s=8, alpha=0.3, color="gray", label="tried")
    axes.plot([p.recall for p in tuned.frontier], [p.rate for p in tuned.frontier], marker=".", label="frontier")
    axes.scatter([tuned.exact.recall], [tuned.exact.rate], marker="s", color="black", zorder=3, label="exact search")
    axes.scatter(
        [tuned.chosen.recall],
        [tuned.chosen.rate],
        marker="*",
        s=120,
        color="red",
        zorder=4,
        label="chosen",
    )
    axes.axvline(tuned.target, linestyle="--", linewidth=1, color="gray", label=f"target {tuned.target:g}")
    least = min(max(tuned.target - 4 * (1 - tuned.target), 0), tuned.chosen.recall)
    axes.set(yscale="log", xlabel=f"recall@{tuned.k}", ylabel=f"queries/s (batch {BATCH})", xlim=(least, 1.005))
    chosen = textwrap.fill(f"chosen: {describe(tuned.chosen.setting)}", _CHARACTERS)
    axes.set_title(f"{tuned.size:,} vectors of {tuned.dim}\n{chosen}", fontsize="small")
    axes.grid(alpha=0.3)
    axes.legend(fontsize="small")
    with atomic_file(path) as temporary:
        figure.savefig(temporary, dpi=150, format="png")
    pyplot.close(figure)


def _as_json(point: Point) -> dict[str, Any]:
    return {
        "setting": None if point.setting is None else asdict(point.setting),
        "recall": round(point.recall, 5),
        "recall_verified": round(point.verified, 5),
        "queries_per_second": round(point.rate, 1),
    }
