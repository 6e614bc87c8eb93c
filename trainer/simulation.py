"""What `headrace data simulate` and `headrace data inspect` print."""

from __future__ import annotations

from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from pydantic import ValidationError
from rich.console import Console
from rich.table import Table

from foundation.errors import UserError
from foundation.progress import progress
from inputs.dataset import Dataset
from inputs.simulate.config import SimulateConfig
from inputs.simulate.measure import measure
from inputs.simulate.world import simulate


def simulate_world(out: Path, options: dict[str, Any], measured: bool) -> None:
    """Writes a world to `out` and prints what it holds; with `measured`, each trap's parameter beside the logs' own.

    Raises:
      UserError: an option is out of range, or `out` exists.
    """
    try:
        config = SimulateConfig(**options)
    except ValidationError as error:
        problems = "\n".join(f"  --{'.'.join(map(str, p['loc']))}: {p['msg']}" for p in error.errors())
        raise UserError(f"the world cannot be simulated:\n{problems}", "Mend the options named above.") from error
    if out.exists():
        raise UserError(f"{out}: exists already.", "Choose a folder that does not exist; nothing is overwritten.")
    with progress("simulating", config.impressions, "impressions") as meter:
        dataset = simulate(config, out, meter.advance)
    describe_dataset(out)
    if measured:
        table = Table("trap", "parameter", "measured from the logs", title="The traps in these logs")
        for name, (parameter, value) in measure(dataset).items():
            table.add_row(name, "" if parameter is None else f"{parameter:.3f}", f"{value:.3f}")
        Console().print(table)


def describe_dataset(path: Path) -> None:
    """Prints a dataset's source, counts, period, columns and bad rows."""
    dataset = Dataset.open(path)
    first, last = (datetime.fromtimestamp(int(time), timezone.utc) for time in dataset.time_range)
    table = Table("", "", show_header=False, title=str(path))
    table.add_row("source", dataset.source)
    table.add_row("users", f"{dataset.users.num_rows:,}")
    table.add_row("items", f"{dataset.items.num_rows:,}")
    table.add_row("events", f"{dataset.num_events:,}")
    table.add_row("period", f"{first:%Y-%m-%d %H:%M} to {last:%Y-%m-%d %H:%M} UTC")
    for kind in ("user_features", "item_features", "context_features", "labels"):
        columns = getattr(dataset.schema, kind)
        table.add_row(kind.replace("_", " "), ", ".join(f"{c.name} ({c.kind})" for c in columns) or "none")
    bad = ", ".join(f"{reason}: {count:,}" for reason, count in dataset.counts.items() if count)
    table.add_row("bad rows", bad or "none")
    Console().print(table)
