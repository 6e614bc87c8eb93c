"""What a step costs whatever the plan, and the rates at which a topology works."""

from __future__ import annotations

from functools import cached_property

from embeddings.planner.counted import OPS
from embeddings.planner.tables import Workload
from embeddings.planner.topology import ClusterTopology
from embeddings.planner.traffic import all_reduce_seconds, latency

# Memory traffic of grouping one id: a radix sort of 64-bit keys with 32-bit places, eight passes of a byte each that
# read keys once to count them, then read and write both.
GROUPING_BYTES = 8 * (8 + 2 * 12)
FLOAT_BYTES = 4
COLLECTIVES = 4  # of a step, however many tables: counts, ids, vectors, gradients; and one of the dense layers


class FixedCosts:
    """Of a workload on a topology, what every plan has in common. examples: of one rank."""

    def __init__(self, workload: Workload, topology: ClusterTopology) -> None:
        self.workload, self.topology = workload, topology
        self._ops = OPS[topology.kernels]
        self.examples = workload.batch_size / topology.ranks  # of one rank
        self._seconds_per_byte = 1.0 / (topology.memory_bandwidth * topology.memory_efficiency)
        streaming = topology.streaming_efficiency or topology.memory_efficiency
        self._seconds_streamed = 1.0 / (topology.memory_bandwidth * streaming)
        grouping = GROUPING_BYTES * self._seconds_per_byte if topology.grouping is None else 1.0 / topology.grouping
        self._seconds_per_id = grouping
        self._seconds_per_arrival = grouping if topology.merging is None else 1.0 / topology.merging
        self._seconds_per_element = 0.0 if topology.stepping is None else 1.0 / topology.stepping

    @cached_property
    def dense_seconds(self) -> float:
        """Of the dense layers' products, on every rank."""
        return self.workload.dense.flops * self.examples / (self.topology.flops * self.topology.flops_efficiency)

    @cached_property
    def joining_seconds(self) -> float:
        """Of laying all vectors side by side for the dense layers, and of cutting their gradient: read and written.
        Nothing where streaming was not measured: the constants of those topologies were settled without it."""
        if not self.workload.dense.layers or self.topology.streaming_efficiency is None:
            return 0.0
        return 4 * FLOAT_BYTES * self.examples * self.workload.activation_width * self._seconds_streamed

    @cached_property
    def launch_seconds(self) -> float:
        """Of starting the ops that belong to no table."""
        exchange = self._ops.exchange if self.topology.ranks > 1 else 0
        ops = self._ops.step + exchange + self._ops.dense_layer * self.workload.dense.layers
        return ops * self.topology.kernel_launch

    @cached_property
    def dense_wire_seconds(self) -> float:
        """Of the dense all-reduce and of every collective's latency."""
        reduced = all_reduce_seconds(FLOAT_BYTES * self.workload.dense.parameters, self.topology)
        return reduced + (COLLECTIVES + bool(self.workload.dense.parameters)) * latency(self.topology)

    @cached_property
    def fixed_seconds(self) -> float:
        """Of what every plan has in common."""
        return self.dense_seconds + self.joining_seconds + self.launch_seconds + self.dense_wire_seconds
