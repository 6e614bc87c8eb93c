"""`headrace index`: compute vectors, build an index of shards, tune its setting, export it for TensorFlow."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from foundation.config import validated
from foundation.errors import UserError
from foundation.files import see_writable
from foundation.progress import say

if TYPE_CHECKING:
    from retrieval.config import IndexConfig
    from retrieval.index import TreeSetting

index = typer.Typer(help="The nearest-neighbour index: vectors, build, tune, export.", no_args_is_help=True)

_QUERIES = 20_000  # of a file that are used
_FOR_A_JOB = "Give SOURCE and OUT, or a job's YAML file alone (with --set and --run-dir)."

Source = Annotated[
    Path,
    typer.Argument(
        help="Parquet (id, vector), a folder with ids.npy and vectors.npy, or a zarr array with ids.npy.",
        metavar="SOURCE",
    ),
]
Overrides = Annotated[
    list[str] | None, typer.Option("--set", help="Override a key: index.KEY=VALUE. Repeatable.", metavar="A.B=C")
]
Queries = Annotated[
    Path | None,
    typer.Option(help="Held-out queries: an npy file [Q, D], or a source (default: a sample of the vectors)."),
]
Seed = Annotated[int, typer.Option(help="Of the samples that are drawn.", min=0)]


@index.command()
def build(
    source: Annotated[Path, typer.Argument(help="The vectors; or a job's YAML file, alone.", metavar="SOURCE|JOB")],
    out: Annotated[
        Path | None, typer.Argument(help="The folder to write; the same command goes on with it.", metavar="OUT")
    ] = None,
    shards: Annotated[int, typer.Option(help="Pieces that are built and searched apart.", min=1)] = 1,
    workers: Annotated[int, typer.Option(help="Shards that are built at once, each on cores of its own.", min=1)] = 1,
    queries: Queries = None,
    target_recall: Annotated[
        float | None, typer.Option(help="Of the exact top 100 (default: index.target_recall).", min=0.01, max=1)
    ] = None,
    tuned: Annotated[Path | None, typer.Option(help="What `index tune --json` wrote: its choice is built.")] = None,
    overrides: Overrides = None,
    ray: Annotated[
        str | None, typer.Option(help="Build on this Ray cluster: auto, or HOST:PORT.", metavar="ADDRESS")
    ] = None,
    seed: Seed = 0,
    run_dir: Annotated[
        Path | None, typer.Option("--run-dir", help="Of a job: where the run lives (default: the job's).")
    ] = None,
) -> None:
    """Build an index over a file's vectors, or compute a job's candidate vectors and build the index over them.

    A build that was killed goes on, shard by shard, with the same command; OUT appears whole.
    """
    if out is None:
        if (shards, workers, queries, target_recall, tuned, ray, seed) != (1, 1, None, None, None, None, 0):
            raise UserError("index build: these options are for a build over vectors, and no OUT is given.", _FOR_A_JOB)
        from trainer.main import run_job

        run_job(["index"], source, overrides, run_dir)
        return
    if run_dir is not None:
        raise UserError("index build: --run-dir is a job's, and SOURCE and OUT are given.", _FOR_A_JOB)
    if tuned is not None and overrides:
        raise UserError(
            "index build: --tuned and --set both say what to build.",
            "Leave one out; what `index tune` printed can be given as --set, changed.",
        )
    from retrieval.index import build_sharded
    from retrieval.index.sources.queries import read_queries
    from retrieval.index.sources.source import open_source

    config = _config(overrides)
    if target_recall is not None and config.leaves_to_search is not None:
        raise UserError(
            "index build: --target-recall and --set index.leaves_to_search both say how much is searched.",
            "Leave one out.",
        )
    opened = open_source(source)
    setting, target = _setting(config, opened.size, tuned)
    asked = None if queries is None else read_queries(queries, _QUERIES, seed, opened.dim)
    facts = build_sharded(
        source,
        out,
        setting,
        shards,
        workers,
        None if setting is None or config.leaves_to_search else target_recall or target,
        asked,
        seed,
        ray,
        measure_codes=tuned is None and config.codes == "measured",
    )
    kind = "searched whole"
    if facts.setting is not None and facts.effort is not None:
        kind = f"{facts.effort.leaves_to_search} of {facts.setting.leaves} leaves of each searched"
        kind += f", recall@{facts.recall_at} {facts.recall:.3f}" if facts.recall_at else ""
    say(f"{out}: {facts.size:,} vectors of {facts.dim} in {len(facts.shards)} shards, {kind}")


@index.command()
def vectors(
    which: Annotated[
        Path, typer.Argument(help="A run directory (its best checkpoint), or a checkpoint in one.", metavar="RUN")
    ],
    out: Annotated[Path, typer.Argument(help="The folder to write; the same command goes on with it.", metavar="OUT")],
    workers: Annotated[int, typer.Option(help="Processes that compute, each on cores of its own.", min=1)] = 1,
    ray: Annotated[
        str | None, typer.Option(help="Compute on this Ray cluster: auto, or HOST:PORT.", metavar="ADDRESS")
    ] = None,
) -> None:
    """Compute the vectors of a run's whole catalogue, whatever ranks trained it: a source for `index build`.

    What was killed goes on, piece by piece, with the same command; OUT appears whole.
    """
    from foundation.tf import tf
    from trainer.candidate_vectors import RAW, write_candidate_vectors

    tf.config.set_visible_devices([], "GPU")  # for the workers' reason
    written = write_candidate_vectors(which, out, workers, ray)
    say(
        f"{out}: {written.size:,} vectors of {written.dim}, of step {written.step}; an id is "
        f"{'the item that the log calls so' if written.ids == RAW else 'a position in the catalogue, see raw_id'}"
    )


@index.command()
def tune(
    source: Source,
    queries: Queries = None,
    target_recall: Annotated[
        float | None, typer.Option(help="Of the exact top K (default: index.target_recall).", min=0.01, max=1)
    ] = None,
    k: Annotated[int, typer.Option("--k", help="Neighbours that recall is measured at.", min=1)] = 100,
    json_file: Annotated[Path | None, typer.Option("--json", help="Write all that was measured.", metavar="F")] = None,
    plot: Annotated[Path | None, typer.Option(help="Draw recall over queries/s (PNG).", metavar="P")] = None,
    sample: Annotated[int, typer.Option(help="Tune on at most so many vectors.", min=1)] = 1_000_000,
    overrides: Overrides = None,
    seed: Seed = 0,
) -> None:
    """Find the cheapest setting that reaches a recall, by measuring on held-out queries; draw the frontier."""
    import numpy as np

    from retrieval.index.sharded.trained import see_finite
    from retrieval.index.sources.queries import read_queries, source_rows
    from retrieval.index.sources.source import open_source
    from retrieval.index.tuner.frontier import draw_frontier, write_tuned
    from retrieval.index.tuner.tune import Choices, describe
    from retrieval.index.tuner.tune import tune as tuned_by_measuring

    config, opened = _config(overrides), open_source(source)
    for path in (json_file, plot):
        if path is not None:
            see_writable(path)  # now, not after minutes of measuring
    size = opened.size
    rows = np.sort(np.random.default_rng(seed).permutation(size)[:sample])
    vectors = source_rows(source, rows)
    see_finite(vectors, opened, rows)
    if len(rows) < size:
        say(f"{source}: tuned on {len(rows):,} of {size:,} vectors; leaves grow with the root of how many there are")
    asked = vectors[:_QUERIES] if queries is None else read_queries(queries, _QUERIES, seed, opened.dim)
    result = tuned_by_measuring(
        vectors,
        asked,
        target_recall or config.target_recall,
        k,
        Choices(training_sample=config.training_sample),
        seed,
        told=say,
    )
    if json_file is not None:
        write_tuned(json_file, result)
    if plot is not None:
        draw_frontier(plot, result)
    chosen = result.chosen
    say(
        f"chosen: {describe(chosen.setting)}: recall@{result.k} {chosen.recall:.4f} (verified {chosen.verified:.4f}), "
        f"{chosen.rate:,.0f} queries/s; exact search {result.exact.rate:,.0f}"
    )
    for line in _as_overrides(chosen.setting):
        typer.echo(line)


@index.command()
def export(
    which: Annotated[Path, typer.Argument(help="What `index build` made, or a run's index/.", metavar="INDEX")],
    out: Annotated[Path, typer.Argument(help="The folder to write; it must not exist yet.", metavar="OUT")],
    k: Annotated[int, typer.Option("--k", help="Neighbours that it answers with.", min=1)] = 100,
) -> None:
    """Write the index as a SavedModel of ScaNN's TensorFlow ops: queries to ids and scores, the same answers."""
    from retrieval.index.sharded.saved_model import export_saved_model

    if out.exists():
        raise UserError(f"{out}: this is there already.", "Name a folder that is not.")
    export_saved_model(which, out, k)
    say(f"written: {out}")


def _config(overrides: list[str] | None) -> IndexConfig:
    from retrieval.config import IndexConfig
    from trainer.job import overridden

    document: dict[str, Any] = {}
    for override in overrides or ():
        overridden(document, override)
    for key in document:
        if key != "index":
            raise UserError(f"--set {key}: only keys of `index` decide here.", "Write --set index.KEY=VALUE.")
    return validated(IndexConfig, document.get("index", {}), "--set", "index's options")


def _setting(config: IndexConfig, size: int, tuned: Path | None) -> tuple[TreeSetting | None, float]:
    """(the tree, None where every vector is searched; the recall wanted)."""
    from retrieval.index.index import setting_of
    from retrieval.index.tuner.frontier import read_chosen

    if tuned is not None:
        setting, of, target = read_chosen(tuned)
        if setting is None:
            return None, target
        leaves = max(round(setting.leaves * (size / of) ** 0.5), 1)
        return replace(setting, leaves=leaves, leaves_to_search=leaves).fitted(size), target
    if config.brute_force_below == "measured":
        raise UserError(
            "--set index.brute_force_below=measured: to measure is what `headrace index tune` is for.",
            "Tune, and build with --tuned FILE.",
        )
    return (None if size < int(config.brute_force_below) else setting_of(config, size)), config.target_recall


def _as_overrides(setting: TreeSetting | None) -> list[str]:
    """The choice as options of `index build`, or keys of a job."""
    if setting is None:
        return ["--set index.brute_force_below=1000000000"]
    keys = ("anisotropic_threshold", "soar", "avq", "codes")
    optional = {key: getattr(setting, key) for key in keys}
    return [
        "--set index.brute_force_below=0",
        f"--set index.leaves={setting.leaves}",
        f"--set index.leaves_to_search={setting.leaves_to_search}",
        f"--set index.reorder={setting.reorder}",
        f"--set index.reorder_precision={setting.reorder_precision}",
        f"--set index.dims_per_block={setting.dims_per_block}",
        f"--set index.training_sample={setting.training_sample}",
        *(f"--set index.{key}={'null' if value is None else value}" for key, value in optional.items()),
    ]
