"""Which rank should hold which part of which table: enumerate, estimate, propose, partition, report. No TensorFlow."""

from embeddings.planner.estimate import EXCHANGES, ExchangeKind
from embeddings.planner.planner import Planned, plan_tables
from embeddings.planner.propose import PROPOSERS, ProposerName
from embeddings.planner.report import print_plan
from embeddings.planner.table_file import load_tables
from embeddings.planner.tables import TableSpec, Workload
from embeddings.planner.thresholds import Thresholds
from embeddings.planner.topology import ClusterTopology, Link
from embeddings.planner.topology_file import load_topology, ready_topologies, save_topology
from embeddings.planner.traffic import WireFormat

__all__ = [
    "EXCHANGES",
    "PROPOSERS",
    "ClusterTopology",
    "ExchangeKind",
    "Link",
    "Planned",
    "ProposerName",
    "TableSpec",
    "Thresholds",
    "WireFormat",
    "Workload",
    "load_tables",
    "load_topology",
    "plan_tables",
    "print_plan",
    "ready_topologies",
    "save_topology",
]
