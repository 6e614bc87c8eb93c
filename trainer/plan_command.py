"""`headrace plan`: a sharding plan for a job's tables or a file's, and what it is expected to cost."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, cast

import typer

from foundation.errors import UserError, nearest

if TYPE_CHECKING:
    from collections.abc import Mapping

    from embeddings.planner import ClusterTopology, ExchangeKind, Planned, ProposerName, WireFormat, Workload
    from embeddings.sharding import Kind

THIS_MACHINE = Path("this-machine.yaml")


def plan(
    job: Annotated[Path | None, typer.Argument(help="A job whose data is prepared.", metavar="[JOB]")] = None,
    tables: Annotated[Path | None, typer.Option("--tables", help="Tables as a YAML list, in place of a job.")] = None,
    topology: Annotated[
        str | None,
        typer.Option("--topology", help="A topology file, or a ready topology's name.", metavar="T.yaml|NAME"),
    ] = None,
    simulate: Annotated[bool, typer.Option("--simulate", help="Plan for a cluster that this machine is not.")] = False,
    calibrate: Annotated[
        bool, typer.Option("--calibrate", help="Measure this machine first; the topology file is written.")
    ] = False,
    hosts: Annotated[int | None, typer.Option(help="So many hosts, in place of the topology's.", min=1)] = None,
    devices_per_host: Annotated[
        int | None, typer.Option(help="So many devices each, in place of the topology's.", min=1)
    ] = None,
    cost_model: Annotated[
        bool, typer.Option("--cost-model", help="Choose by predicted step time, not by thresholds.")
    ] = False,
    proposer: Annotated[str | None, typer.Option(help="Of the cost model: greedy or dynamic.")] = None,
    kinds: Annotated[str | None, typer.Option(help="The sharding types allowed, with commas.", metavar="A,B")] = None,
    wire: Annotated[
        str, typer.Option(help="Vectors and gradients travel as float32, bfloat16 or float16.")
    ] = "float32",
    exchange: Annotated[
        str, typer.Option(help="headrace's own (distinct), or of systems whose owners pool (pooled).")
    ] = "distinct",
    json_file: Annotated[Path | None, typer.Option("--json", help="Write plan and prediction here.")] = None,
    overrides: Annotated[
        list[str] | None, typer.Option("--set", help="Override a key of the job: a.b=c.", metavar="A.B=C")
    ] = None,
    run_dir: Annotated[Path | None, typer.Option("--run-dir", help="Where the job's run lives.")] = None,
) -> None:
    """Propose a sharding plan: shards, memory, bytes sent, predicted step time."""
    from rich.console import Console

    from embeddings.planner import EXCHANGES, PROPOSERS, plan_tables, print_plan
    from embeddings.planner.tables import BYTES_PER_FLOAT
    from embeddings.sharding import KINDS
    from foundation.files import write_json

    allowed = tuple(_one_of(kind, KINDS, "--kinds") for kind in kinds.split(",")) if kinds else KINDS
    chosen = _one_of(proposer or "greedy", PROPOSERS, "--proposer") if cost_model or proposer else None
    travels = _one_of(wire, tuple(BYTES_PER_FLOAT), "--wire")
    exchanged = _one_of(exchange, EXCHANGES, "--exchange")
    cluster = _calibrated(topology, devices_per_host) if calibrate else _topology(topology, simulate)
    if job is None and tables is None and calibrate:
        return
    cluster = cluster.sized(hosts, devices_per_host)
    console = Console(width=None if sys.stdout.isatty() else 132)  # a pipe has no width of its own
    found: dict[str, Planned] = {}
    for name, workload in _workloads(job, tables, overrides, run_dir).items():
        found[name] = plan_tables(
            workload,
            cluster,
            cast("ProposerName | None", chosen),
            cast("tuple[Kind, ...]", allowed),
            cast("WireFormat", travels),
            cast("ExchangeKind", exchanged),
        )
        print_plan(found[name], console, f"{name}{', simulated' if simulate else ''}")
    if json_file is not None:
        write_json(json_file, {name: planned.document() for name, planned in found.items()})


def _one_of(word: str, known: tuple[str, ...], option: str) -> str:
    if word.strip() not in known:
        raise UserError(f"{option}: no '{word}'; {nearest(word, known)}", f"Known: {', '.join(known)}.")
    return word.strip()


def _topology(name_or_path: str | None, simulate: bool) -> ClusterTopology:
    """The cluster to plan for; one that is known not to be this machine wants --simulate."""
    from embeddings.planner import load_topology, ready_topologies
    from embeddings.planner.calibrate import machine_name

    if name_or_path is None and not THIS_MACHINE.exists():
        raise UserError(
            "which cluster? There is no --topology.",
            f"Give a topology file or one of {', '.join(ready_topologies())}; or measure this machine: "
            f"headrace plan --calibrate writes {THIS_MACHINE}.",
        )
    given = name_or_path or str(THIS_MACHINE)
    topology = load_topology(given)
    if simulate:
        return topology
    if given in ready_topologies():
        raise UserError(
            f"--topology {given}: a ready topology, which is not known to be where this runs.",
            "Add --simulate to plan for it all the same.",
        )
    if topology.measured_on not in ("", machine_name()):
        raise UserError(
            f"{given}: measured on {topology.measured_on}, and this is {machine_name()}.",
            "Add --simulate to plan for that machine, or measure this one with --calibrate.",
        )
    return topology


def _calibrated(path: str | None, ranks: int | None) -> ClusterTopology:
    import os

    from embeddings.planner import save_topology
    from foundation.progress import say
    from trainer.calibration import calibrate

    file = Path(path or THIS_MACHINE)
    if file.suffix not in (".yaml", ".yml"):
        raise UserError(f"--topology {path}: --calibrate writes a YAML file there.", "Give a name that ends in .yaml.")
    topology = calibrate(ranks or len(os.sched_getaffinity(0)))
    save_topology(topology, file, "Measured by `headrace plan --calibrate`: every rank a process on its own cores.")
    say(f"written: {file}")
    return topology


def _workloads(
    job_file: Path | None, tables: Path | None, overrides: list[str] | None, run_dir: Path | None
) -> Mapping[str, Workload]:
    """By the name of the model: what there is to plan."""
    from embeddings.planner import load_tables

    if (job_file is None) == (tables is None):
        raise UserError("which tables?", "Give either a job or --tables FILE.")
    if tables is not None:
        return {tables.stem: load_tables(tables)}
    from trainer.job import load_job
    from trainer.job_tables import workloads_of
    from trainer.run_directory import RunDirectory
    from trainer.workspace import Workspace

    assert job_file is not None
    job = load_job(job_file, overrides or ())
    return workloads_of(Workspace(job, RunDirectory(run_dir or job.run_path()), str(job_file)))
