"""Topology files: YAML with a unit in every value, checked key by key; the ready ones lie in `topologies/`."""

from __future__ import annotations

from importlib import resources
from pathlib import Path
from typing import Annotated

import yaml
from pydantic import BeforeValidator, Field

from embeddings.planner.documents import read_document
from embeddings.planner.topology import ClusterTopology, KernelKind, Link
from embeddings.planner.units import BANDWIDTH, ELEMENT_RATE, FLOPS, ID_RATE, SIZE, TIME, Dimension, parse, written
from foundation.config import Config, validated
from foundation.errors import UserError, nearest
from foundation.files import atomic_file


def _quantity(dimension: Dimension) -> BeforeValidator:
    return BeforeValidator(lambda value: parse(value, dimension))


Size = Annotated[float, _quantity(SIZE), Field(gt=0)]
Bandwidth = Annotated[float, _quantity(BANDWIDTH), Field(gt=0)]
Flops = Annotated[float, _quantity(FLOPS), Field(gt=0)]
Seconds = Annotated[float, _quantity(TIME), Field(ge=0)]
IdRate = Annotated[float, _quantity(ID_RATE), Field(gt=0)]
ElementRate = Annotated[float, _quantity(ELEMENT_RATE), Field(gt=0)]
Share = Annotated[float, Field(gt=0, le=1)]


class _Link(Config):
    bandwidth: Bandwidth
    efficiency: Share
    latency: Seconds


class _Topology(Config):
    """The keys of a file; what each means: `ClusterTopology`."""

    name: str = Field(min_length=1)
    device: str
    hosts: int = Field(ge=1, le=100_000, strict=True)
    devices_per_host: int = Field(ge=1, le=1_024, strict=True)
    memory: Size
    memory_bandwidth: Bandwidth
    memory_efficiency: Share
    flops: Flops
    flops_efficiency: Share
    kernel_launch: Seconds
    intra_host: _Link
    inter_host: _Link
    grouping: IdRate | None = None
    merging: IdRate | None = None
    streaming_efficiency: Share | None = None
    stepping: ElementRate | None = None
    kernels: KernelKind = "twin"
    measured_on: str = ""


def ready_topologies() -> dict[str, Path]:
    """The files that come with headrace, by name."""
    folder = Path(str(resources.files("embeddings.planner") / "topologies"))
    return {path.stem: path for path in sorted(folder.glob("*.yaml"))}


def load_topology(name_or_path: str | Path) -> ClusterTopology:
    """Reads a topology file, or the ready topology so named.

    Raises:
      UserError: there is none, or a key is misspelt, missing or has the wrong unit (all are listed).
    """
    ready, path = ready_topologies(), Path(name_or_path)
    if str(name_or_path) in ready:
        path = ready[str(name_or_path)]
    elif not path.exists():
        raise UserError(
            f"{name_or_path}: no such topology file, and no ready topology of that name.",
            f"Ready ones: {', '.join(ready)} ({nearest(str(name_or_path), ready)}). "
            f"`headrace plan --calibrate` measures this machine.",
        )
    keys = validated(_Topology, read_document(path, "a topology"), str(path), "topology")
    links = {side: Link(**getattr(keys, side).model_dump()) for side in ("intra_host", "inter_host")}
    return ClusterTopology(**{**keys.model_dump(), **links})


def save_topology(topology: ClusterTopology, path: str | Path, comment: str) -> None:
    """Writes a topology file; comment: its first line."""

    def link(of: Link) -> dict[str, object]:
        return {
            "bandwidth": written(of.bandwidth, BANDWIDTH),
            "efficiency": of.efficiency,
            "latency": written(of.latency, TIME),
        }

    document: dict[str, object] = {
        "name": topology.name,
        "device": topology.device,
        "hosts": topology.hosts,
        "devices_per_host": topology.devices_per_host,
        "memory": written(topology.memory, SIZE),
        "memory_bandwidth": written(topology.memory_bandwidth, BANDWIDTH),
        "memory_efficiency": topology.memory_efficiency,
        "flops": written(topology.flops, FLOPS),
        "flops_efficiency": topology.flops_efficiency,
        "kernel_launch": written(topology.kernel_launch, TIME),
        "intra_host": link(topology.intra_host),
        "inter_host": link(topology.inter_host),
    }
    measured = {
        "grouping": (topology.grouping, ID_RATE),
        "merging": (topology.merging, ID_RATE),
        "stepping": (topology.stepping, ELEMENT_RATE),
    }
    document.update({key: written(rate, unit) for key, (rate, unit) in measured.items() if rate is not None})
    if topology.streaming_efficiency is not None:
        document["streaming_efficiency"] = topology.streaming_efficiency
    document["kernels"] = topology.kernels
    if topology.measured_on:
        document["measured_on"] = topology.measured_on
    with atomic_file(path) as temporary:
        temporary.write_text(f"# {comment}\n" + yaml.safe_dump(document, sort_keys=False))
