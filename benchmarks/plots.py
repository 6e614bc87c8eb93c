"""Curves of a suite as pictures."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from benchmarks.report import Frontiers, Report

_SIZE = (6.0, 4.0)  # inches


def draw_curves(reports: Sequence[Report], folder: Path) -> list[Path]:
    """Writes SUITE-CURVES.png for each set of curves, in milliseconds, both axes logarithmic; and for each set of
    frontiers."""
    import matplotlib

    matplotlib.use("agg")
    from matplotlib import pyplot

    folder.mkdir(parents=True, exist_ok=True)
    files = []
    for report in reports:
        for curves in report.curves:
            figure, axes = pyplot.subplots(figsize=_SIZE, layout="constrained")
            for name, points in curves.series.items():
                axes.plot(list(points), [seconds * 1e3 for seconds in points.values()], marker="o", label=name)
            axes.set(xscale="log", yscale="log", xlabel=curves.quantity, ylabel=f"ms {curves.of}")
            axes.set_title(f"{report.suite}: time over {curves.quantity}")
            values = sorted({value for points in curves.series.values() for value in points})
            axes.set_xticks(values, [f"{value:,.0f}" for value in values])
            axes.minorticks_off()
            axes.grid(alpha=0.3)
            axes.legend()
            files.append(folder / f"{report.suite}-{curves.name}.png")
            figure.savefig(files[-1], dpi=150)
            pyplot.close(figure)
        for frontiers in report.frontiers:
            files.append(folder / f"{report.suite}-{frontiers.name}.png")
            _draw_frontiers(report.suite, frontiers, files[-1])
    return files


def _draw_frontiers(suite: str, frontiers: Frontiers, file: Path) -> None:
    """Queries/s, logarithmic, over quality: up and to the right is better."""
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=_SIZE, layout="constrained")
    for name, points in frontiers.series.items():
        axes.plot(*zip(*points, strict=True), marker="o", markersize=3, label=name)
    axes.set(yscale="log", xlabel=frontiers.quality, ylabel="queries/s", title=f"{suite}: {frontiers.name}")
    axes.grid(alpha=0.3, which="both")
    axes.legend(fontsize="small")
    figure.savefig(file, dpi=150)
    pyplot.close(figure)
