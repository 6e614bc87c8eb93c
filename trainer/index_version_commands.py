"""`headrace index publish`, `rollback`, `versions`: which version of an index is served."""

from __future__ import annotations

import json
import time
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from foundation.errors import UserError
from foundation.progress import say

index_versions = typer.Typer()

Root = Annotated[Path, typer.Argument(help="The folder of all versions of an index.", metavar="ROOT")]


@index_versions.command()
def publish(
    root: Root,
    folder: Annotated[
        Path,
        typer.Argument(help="What `headrace index build` or LiveIndex.save wrote; it is copied.", metavar="FOLDER"),
    ],
    recall: Annotated[
        float, typer.Option(help="Of the exact top 100, to be found at least.", min=0, max=1, metavar="SHARE")
    ] = 0.9,
    queries: Annotated[
        Path | None,
        typer.Option(help="Query vectors that judge it: an npy file [Q, D], or a source (default: some of its own)."),
    ] = None,
    vectors: Annotated[
        Path | None,
        typer.Option(help="What it was built from, where it does not hold its vectors in float32.", metavar="SOURCE"),
    ] = None,
    smallest_share: Annotated[
        float, typer.Option(help="Its items, at least so large a share of the current version's.", min=0)
    ] = 0.5,
    keep: Annotated[int, typer.Option(help="So many versions; older ones are removed.", min=1)] = 3,
) -> None:
    """Judge an index and make it the version that is served, in one rename; readers take it up within a second."""
    from retrieval.index.sources.queries import read_queries
    from retrieval.index.versions.published import JUDGED_ON
    from retrieval.index.versions.versions import Demands, Versions

    asked = None if queries is None else read_queries(queries, JUDGED_ON, seed=0)
    version = Versions(root).publish(folder, Demands(recall, smallest_share), asked, vectors, keep)
    say(f"{root}: version {version.name} is current: {version.size:,} items, recall {version.recall:.3f}")


@index_versions.command()
def rollback(root: Root) -> None:
    """Serve the version before the current one again."""
    from retrieval.index.versions.versions import Versions

    left, now = Versions(root).rollback()
    say(f"{root}: version {now} is current again, not {left}")


@index_versions.command()
def versions(root: Root, as_json: Annotated[bool, typer.Option("--json", help="Print it as JSON.")] = False) -> None:
    """List the versions that are kept; the current one is marked."""
    from rich.console import Console
    from rich.table import Table

    from retrieval.index.versions.versions import Versions

    known = Versions(root)
    pointer, listed = known.pointer(), known.listed()
    if pointer is None:
        raise UserError(f"{root}: no version is published here.", "headrace index publish ROOT FOLDER")
    if as_json:
        document = {"current": pointer.current, "versions": [asdict(version) for version in listed]}
        typer.echo(json.dumps(document, indent=2))
        return
    table = Table("", "version", "published", "items", "recall", "from")
    for version in listed:
        when = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(version.published))
        mark = "current" if version.name == pointer.current else ""
        table.add_row(mark, version.name, when, f"{version.size:,}", f"{version.recall:.3f}", version.made_from)
    Console().print(table)
