"""`headrace index build SOURCE OUT`: a sharded index, shard by shard, killed at any moment and gone on with."""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np

from foundation.errors import UserError, damaged
from foundation.files import read_json, write_json
from foundation.progress import progress, say
from retrieval.index.codes import SAMPLE, measured_codes
from retrieval.index.searcher import Searcher
from retrieval.index.setting import CODES, TreeSetting
from retrieval.index.sharded.distinct import refuse_repeated_ids
from retrieval.index.sharded.effort import total_effort
from retrieval.index.sharded.index import ShardedFacts, ShardedIndex, write_sharded_manifest
from retrieval.index.sharded.shard import Range, ranges_of
from retrieval.index.sharded.trained import JUDGING, see_finite, train
from retrieval.index.sources.queries import source_rows
from retrieval.index.sources.source import Source, open_source
from retrieval.index.workers.do import do_tasks
from retrieval.index.workers.program import Program, Task
from retrieval.index.workers.unfinished import difference, unfinished

DISTINCT, MEASURED, TREE = "distinct.json", "codes.json", "tree"
_PROGRAM = Program(
    "retrieval.index.sharded.worker", tasks_each=1, remedy="If memory ran out: more shards, or fewer workers."
)


def build_sharded(
    source: str | Path,
    out: str | Path,
    setting: TreeSetting | None,
    shards: int,
    workers: int,
    target_recall: float | None = None,
    queries: np.ndarray | None = None,
    seed: int = 0,
    ray: str | None = None,
    measure_codes: bool = False,
) -> ShardedFacts:
    """Builds an index of `shards` contiguous ranges of the source's rows; `out` appears by one rename, once all is
    there.

    setting: of the tree that is trained once and that each shard holds its own vectors in; None: exact. queries: [Q, D]
    as will be asked (default: a sample of the vectors stands in). target_recall: the least effort that reaches it is
    measured on the first of them and kept as the index's; None: the setting's own effort. A setting with `codes` has
    its basis learned from the others of them. workers: processes of this machine, or, with `ray` (a cluster's address),
    tasks there. measure_codes: whether the setting gets codes is measured first, where queries are given
    (`measured_codes`).

    Until then the work lies in `.OUT.building` beside `out`, each shard committed by a rename of its own: the same call
    goes on from there, after an error, a Ctrl-C or a kill. Where `out` was made from the same, nothing is done.

    Raises:
      UserError: what is wrong with the source (an id twice, a vector that is not finite, ...), the disk, the cluster;
        `out` is there and another; what lies in `.OUT.building` was begun from something else (another setting, say;
        where the source itself has changed since, all is begun again).
    """
    opened, out = open_source(source), Path(out)
    _see_queries(opened, queries)
    shards, setting = min(shards, opened.size), None if setting is None else setting.fitted(opened.size)
    measure_codes = measure_codes and setting is not None and queries is not None
    plan = _plan(opened, setting, shards, target_recall, queries, seed, measure_codes)
    if out.exists():
        return _already(out, plan)
    with unfinished(out, plan, lambda begun: _has_changed(begun, plan)) as work:
        ranges = ranges_of(opened.size, shards)
        _see_distinct(opened, ranges, work)
        if measure_codes and setting is not None and queries is not None:
            setting = replace(setting, codes=_measured_once(opened, setting, queries, work / MEASURED, seed))
        if setting is not None and not (work / TREE).exists() and any(rows.size >= CODES for rows in ranges):
            say(f"training a tree of {setting.leaves:,} leaves")
            train(opened, setting, queries, work / TREE, seed)
        names = [f"shard-{number:05d}" for number in range(shards)]
        _build_missing(opened, setting, dict(zip(names, ranges, strict=True)), work, workers, ray)
        facts = ShardedFacts(
            opened.size, opened.dim, tuple(names), setting, None if setting is None else setting.effort, 1.0, 0, plan
        )
        if target_recall is not None:
            facts = _tuned(opened, work, facts, target_recall, queries, seed)
        write_sharded_manifest(work, facts)
        if open_source(source).digest() != plan["source_digest"]:
            raise UserError(f"{source}: it changed while the index was built.", "Build again once it is whole.")
        for name in (DISTINCT, MEASURED):
            (work / name).unlink(missing_ok=True)
        shutil.rmtree(work / TREE, ignore_errors=True)
    return facts


def _see_queries(source: Source, queries: np.ndarray | None) -> None:
    """Raises a UserError where queries [Q, D] do not fit the source's vectors."""
    if queries is not None and (queries.ndim != 2 or queries.shape[1] != source.dim):
        raise UserError(
            f"the queries: shape {list(queries.shape)}, where the vectors have {source.dim} numbers.",
            "Give queries of the model that the vectors are from.",
        )


def _plan(
    source: Source,
    setting: TreeSetting | None,
    shards: int,
    target_recall: float | None,
    queries: np.ndarray | None,
    seed: int,
    measure_codes: bool,
) -> dict[str, Any]:
    """All that the index is made from, as plain JSON values. (The codes that were measured are not: another measurement
    might come out otherwise.)"""
    heeded = setting is not None and (setting.codes is not None or measure_codes or target_recall is not None)
    asked = queries if heeded else None
    return {
        "source": str(source.path.absolute()),
        "source_digest": source.digest(),
        "size": source.size,
        "dim": source.dim,
        "shards": shards,
        "setting": None if setting is None else asdict(setting),
        "target_recall": target_recall,
        "measure_codes": measure_codes,
        "queries": None if asked is None else hashlib.sha256(asked.tobytes()).hexdigest(),
        "seed": seed,
    }


def _has_changed(begun: Mapping[str, Any], plan: Mapping[str, Any]) -> bool:
    """Whether a build was begun from this source as it is no more: mended after it was refused, say."""
    return bool(begun["source"] == plan["source"] and begun["source_digest"] != plan["source_digest"])


def _already(out: Path, plan: dict[str, Any]) -> ShardedFacts:
    try:
        facts = ShardedIndex.check(out)
    except UserError:
        raise UserError(f"{out}: this is there already, and no sharded index.", "Name a folder that is not.") from None
    if facts.made_from != plan:
        raise UserError(
            f"{out}: an index is there already, made from something else ({difference(facts.made_from, plan)}).",
            "Name a folder that is not, or remove that one.",
        )
    say(f"{out}: built already")
    return facts


def _see_distinct(source: Source, ranges: Sequence[Range], work: Path) -> None:
    if (work / DISTINCT).exists():
        return
    folder = work / "sorted"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    refuse_repeated_ids(source, ranges, folder)
    shutil.rmtree(folder)
    write_json(work / DISTINCT, {"ids": source.size})


def _measured_once(source: Source, setting: TreeSetting, queries: np.ndarray, decided: Path, seed: int) -> int | None:
    """`measured_codes`, kept in a file: a build that is gone on with has the codes it began with."""
    if not decided.exists():
        rows = np.sort(np.random.default_rng(seed).permutation(source.size)[:SAMPLE])
        sample = source_rows(source.path, rows)
        see_finite(sample, source, rows)
        write_json(decided, {"codes": measured_codes(sample, queries, setting)})
    document = read_json(decided, "the codes that were measured")
    with damaged(decided, "Remove it and build again."):
        return None if document["codes"] is None else int(document["codes"])


def _build_missing(
    source: Source,
    setting: TreeSetting | None,
    shards: dict[str, Range],
    work: Path,
    workers: int,
    ray: str | None,
) -> None:
    tasks: list[Task] = []
    for name, rows in shards.items():
        folder = work / name
        if folder.exists():
            try:
                if Searcher.check(folder)[2] == (setting if rows.size >= CODES else None):
                    continue
                say(f"built again: {folder} is of another setting")  # of codes that were measured before
            except UserError as error:
                say(f"built again: {error.message}")
            shutil.rmtree(folder)
        tasks.append(
            {
                "source": str(source.path.absolute()),
                "start": rows.start,
                "stop": rows.stop,
                "setting": None if setting is None else asdict(setting),
                "makes": str(folder.absolute()),
                "trained": str((work / TREE).absolute()) if (work / TREE).exists() else None,
            }
        )
    with progress(
        "building", source.size, "vectors", source.size - sum(t["stop"] - t["start"] for t in tasks)
    ) as meter:
        do_tasks(_PROGRAM, tasks, workers, ray, lambda task: meter.advance(task["stop"] - task["start"]))


def _tuned(
    source: Source, work: Path, facts: ShardedFacts, target: float, queries: np.ndarray | None, seed: int
) -> ShardedFacts:
    """The facts with the least effort that reaches the target, its recall measured."""
    if facts.setting is None:
        return facts
    if queries is None:
        queries = _some_vectors(source, seed)
    effort, recall, at = total_effort(source, [work / name for name in facts.shards], facts.setting, queries, target)
    if recall < target:
        say(
            f"the index: recall {recall:.3f} with every leaf searched is below {target}; "
            "more vectors reordered (index.reorder) or finer codes would raise it"
        )
    return replace(facts, effort=effort, recall=recall, recall_at=at)


def _some_vectors(source: Source, seed: int) -> np.ndarray:
    """A sample of the source's vectors, as stand-ins for queries."""
    return source_rows(source.path, np.sort(np.random.default_rng(seed).permutation(source.size)[:JUDGING]))
