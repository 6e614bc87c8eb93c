"""What a checkpoint holds, how it differs from another, and whether it is whole."""

from __future__ import annotations

from dataclasses import asdict
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from rich.console import Console
from rich.table import Table

from embeddings.checkpoints.compare import Difference, TableDifference, compare_tables
from embeddings.checkpoints.describe import describe_tables
from embeddings.checkpoints.verify import damages, size_of
from foundation.errors import UserError
from foundation.progress import progress
from trainer.checkpoint_folder import CheckpointFolder
from trainer.checkpoint_state import STATE
from trainer.dense_variables import DenseVariables


def inspected(checkpoint: CheckpointFolder) -> dict[str, Any]:
    """As plain JSON types: step, stage, ranks, tables, dense variables, the job it was made from, when.

    Raises:
      UserError: it is damaged, so far as it is read for this.
    """
    saved, tables = checkpoint.saved, describe_tables(checkpoint.tables)
    document: dict[str, Any] = {
        "path": str(checkpoint.path),
        "stage": checkpoint.stage,
        "step": checkpoint.step,
        "ranks": tables.ranks,
        "saved_at": saved.saved_at,
        "made_from": saved.state.get("made_from"),
        "job": _job(checkpoint),
        "position": saved.state.get("position"),
        "tables": [table.document() for table in tables.tables],
        "dense": [],
    }
    if not checkpoint.holds_tables_alone:
        dense = DenseVariables(checkpoint.path)
        document["dense"] = [
            {"name": name, "shape": list(shape), "dtype": dense.dtypes[name]} for name, shape in dense.shapes.items()
        ]
    return document


def _job(checkpoint: CheckpointFolder) -> dict[str, Any] | None:
    """The job of the run directory around it; None: there is none."""
    if checkpoint.run is None:
        return None
    try:
        return dict(yaml.safe_load((checkpoint.run / "config.yaml").read_text()))
    except (OSError, yaml.YAMLError, TypeError, ValueError):
        return None


def print_inspected(document: dict[str, Any], console: Console) -> None:
    """The same for people."""
    when = "when, it does not say"
    if document["saved_at"] is not None:
        when = f"{datetime.fromtimestamp(document['saved_at'], timezone.utc):%Y-%m-%d %H:%M:%S} UTC"
    step = "unknown" if document["step"] is None else f"{document['step']:,}"
    lines = {
        "stage": document["stage"] or "unknown",
        "step": step,
        "ranks": f"{document['ranks']}",
        "saved": when,
        "job": document["job"]["name"] if document["job"] else "unknown (no run directory around it)",
        "made from": document["made_from"] or "unknown",
    }
    for name, value in lines.items():
        console.print(f"{name}: {value}", highlight=False, markup=False)
    console.print(_table("tables", [_row_of(table) for table in document["tables"]]))
    numbers = sum(int(np.prod(variable["shape"])) for variable in document["dense"])
    if document["dense"]:
        rows = [
            {"name": v["name"], "shape": "x".join(map(str, v["shape"])) or "1", "dtype": v["dtype"]}
            for v in document["dense"]
        ]
        console.print(_table(f"dense variables: {len(rows)}, {numbers:,} numbers", rows))


def _row_of(table: dict[str, Any]) -> dict[str, str]:
    slots = ", ".join(f"{name} {dtype}" for name, dtype in table["slots"].items())
    counts = "; ".join(f"{name} {count:,}" for name, count in table["counts"].items())
    return {
        "table": table["name"],
        "rows": f"{table['rows']:,}{' ids' if table['dynamic'] else ''}",
        "dim": str(table["dim"]),
        "precision": table["precision"],
        "optimizer": f"{table['optimizer']}{f' ({slots})' if slots else ''}",
        "layout": table["layout"],
        "updates": f"{table['updates']:,}",
        "bytes": f"{table['bytes']:,}",
        "counts": counts,
    }


def _table(title: str, rows: list[dict[str, str]]) -> Table:
    kept = [name for name in rows[0] if any(row[name] for row in rows)] if rows else []
    table = Table(title=title, title_justify="left")
    for name in kept:
        table.add_column(name, justify="right" if name in ("rows", "dim", "updates", "bytes") else "left")
    for row in rows:
        table.add_row(*(row[name] for name in kept))
    return table


def verify_checkpoint(checkpoint: CheckpointFolder) -> int:
    """Reads every file; returns how many bytes of tables there are.

    Raises:
      UserError: files are missing, truncated or damaged: all are named.
    """
    found: dict[Path, str] = {}
    if not checkpoint.holds_tables_alone:
        try:
            found.update(checkpoint.saved.damages())
        except UserError as error:
            if "newer version" in error.message:
                raise
            found[checkpoint.path / STATE] = error.message
    try:
        total = size_of(checkpoint.tables)
        with progress("verifying", total, "bytes") as meter:
            found.update(damages(checkpoint.tables, meter.advance))
    except UserError as error:
        if "newer version" in error.message:
            raise
        found[checkpoint.tables] = error.message
        total = 0
    if found:
        count = "1 file is" if len(found) == 1 else f"{len(found)} files are"
        lines = "\n".join(f"  {message}" for _, message in sorted(found.items()))
        raise UserError(f"{checkpoint.path}: {count} not as written:\n{lines}", "Use another checkpoint.")
    return total


def compared(here: CheckpointFolder, there: CheckpointFolder) -> dict[str, Any]:
    """Tables and dense variables of two checkpoints, as plain JSON types; "same": whether all of them are.

    Raises:
      UserError: what is read is damaged.
    """
    tables = compare_tables(here.tables, there.tables)
    dense = {}
    if not (here.holds_tables_alone or there.holds_tables_alone):
        dense = _dense(DenseVariables(here.path), DenseVariables(there.path))
    same = all(difference.same for difference in [*tables.values(), *dense.values()])
    return {
        "here": str(here.path),
        "there": str(there.path),
        "same": same,
        "tables": {name: difference.document() for name, difference in tables.items()},
        "dense": {name: _dense_document(difference) for name, difference in dense.items()},
    }


def _dense(one: DenseVariables, other: DenseVariables) -> dict[str, TableDifference]:
    found = {}
    for name in dict.fromkeys([*one.shapes, *other.shapes]):
        shapes = [dense.shapes.get(name) for dense in (one, other)]
        numeric = all(
            np.issubdtype(dense.read(name).dtype, np.number) for dense in (one, other) if name in dense.shapes
        )
        if None in shapes:
            found[name] = TableDifference(unlike=[f"only {'here' if shapes[1] is None else 'there'}"])
        elif shapes[0] != shapes[1]:
            found[name] = TableDifference(unlike=[f"shape {list(shapes[0] or ())} here; {list(shapes[1] or ())} there"])
        elif numeric:
            difference = Difference()
            difference.add(one.read(name).reshape(-1), other.read(name).reshape(-1))
            found[name] = TableDifference(variables={"": difference})
        else:
            same = np.array_equal(one.read(name), other.read(name))
            found[name] = TableDifference(unlike=[] if same else ["not the same"])
    return found


def _dense_document(difference: TableDifference) -> dict[str, Any]:
    numbers = difference.variables.get("")
    shown = numbers.document() if numbers else asdict(Difference()) | {"same": difference.same}
    return {**shown, "unlike": difference.unlike}


def print_compared(document: dict[str, Any], console: Console) -> None:
    """The same for people: what differs."""
    rows = []
    for name, table in document["tables"].items():
        only = {"only_here": table["only_here"], "only_there": table["only_there"]}
        first = {**only, "unlike": "; ".join(table["unlike"])}
        for variable, difference in (table["variables"] or {"": None}).items():
            if difference is None or not difference["same"] or any(first.values()) or variable == "rows":
                rows.append(_line(name, variable, difference, first))
                first = {"only_here": 0, "only_there": 0, "unlike": ""}
    for name, difference in document["dense"].items():
        if not difference["same"] or difference["unlike"]:
            rows.append(_line(name, "", difference, {"unlike": "; ".join(difference["unlike"])}))
    console.print(_table("the same" if document["same"] else "different", rows))


def _line(name: str, variable: str, difference: dict[str, Any] | None, more: dict[str, Any]) -> dict[str, str]:
    compared = difference or {"rows": 0, "differ": 0, "absolute": 0.0, "relative": 0.0}
    return {
        "what": f"{name} {variable}".strip(),
        "compared": f"{compared['rows']:,}",
        "differ": f"{compared['differ']:,}",
        "largest": _number(compared["absolute"]),
        "relative": _number(compared["relative"]),
        "only here": f"{more['only_here']:,}" if more.get("only_here") else "",
        "only there": f"{more['only_there']:,}" if more.get("only_there") else "",
        "unlike": more["unlike"],
    }


def _number(value: Any) -> str:
    return value if isinstance(value, str) else f"{value:.3g}"
