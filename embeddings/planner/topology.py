"""The cluster that a plan is for: devices, their memory, and the links between them."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

KernelKind = Literal["twin", "compiled"]


@dataclass(frozen=True)
class Link:
    """What connects the devices. bandwidth: bytes/s that one device sends and, at the same time, receives, as the
    datasheet has it. efficiency: the share of it that a collective reaches. latency: seconds of a collective that
    moves almost nothing."""

    bandwidth: float
    efficiency: float
    latency: float

    @property
    def speed(self) -> float:
        """Bytes/s that a collective reaches, each way."""
        return self.bandwidth * self.efficiency


@dataclass(frozen=True)
class ClusterTopology:
    """Equal hosts of equal devices; one rank drives one device, ranks are numbered host by host.

    memory: bytes of a device. memory_bandwidth: its bytes/s, as the datasheet has it; memory_efficiency: the share of
    it that reading and writing rows at random places reaches. flops: of matrix products in FLOP/s; flops_efficiency:
    the share of them that a recommender's dense layers reach. kernel_launch: seconds that starting one op costs.
    kernels: what serves the tables, TensorFlow's ops or the compiled ones, which start fewer. measured_on: the machine
    that `--calibrate` measured, or "".

    Where they were measured; None: as the memory has it. grouping: ids/s that are sorted or hashed so that equal ones
    stand together (`fixed.GROUPING_BYTES`). merging: ids/s of those that come from other ranks, each rank's already
    grouped. streaming_efficiency: the share of the bandwidth that vectors and gradients on their way reach. stepping:
    elements/s of slot variables as wide as a row, of which optimizers take roots to divide by.
    """

    name: str
    device: str
    hosts: int
    devices_per_host: int
    memory: float
    memory_bandwidth: float
    memory_efficiency: float
    flops: float
    flops_efficiency: float
    kernel_launch: float
    intra_host: Link
    inter_host: Link
    grouping: float | None = None
    streaming_efficiency: float | None = None
    merging: float | None = None
    stepping: float | None = None
    kernels: KernelKind = "twin"
    measured_on: str = ""

    @property
    def ranks(self) -> int:
        return self.hosts * self.devices_per_host

    def host_of(self, rank: int) -> int:
        """The host that holds a rank."""
        return rank // self.devices_per_host

    def ranks_of(self, host: int) -> tuple[int, ...]:
        """The ranks of one host."""
        first = host * self.devices_per_host
        return tuple(range(first, first + self.devices_per_host))

    def sized(self, hosts: int | None = None, devices_per_host: int | None = None) -> ClusterTopology:
        """The same devices and links, other numbers of them."""
        return replace(self, hosts=hosts or self.hosts, devices_per_host=devices_per_host or self.devices_per_host)
