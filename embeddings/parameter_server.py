"""Tables on parameter servers: rows spread over the servers, where they are looked up and updated, by workers that do
not wait for each other."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING
from weakref import WeakSet

from embeddings.config import TableConfig
from embeddings.fused import NEVER, TWICE, FusedUpdate
from embeddings.kernels import stock_only
from embeddings.kernels.group import Bag
from embeddings.kernels.reference import step_rows, summed_at, unique_by_owner
from embeddings.pooling import checks_of, pooled
from embeddings.sharding.held import HeldShard, held_shards
from embeddings.sharding.plan import ShardingPlan, TableSharding
from embeddings.sharding.sharded import ShardedTable
from foundation.tf import tf

if TYPE_CHECKING:
    from embeddings.kernels.group import Table

ROWS_APART = ("row_wise", "table_row_wise", "table_wise")  # sharding types that give each row, whole, one server
MOST_AWAITED = 200  # training calls without any gradient before we say that none is ever asked for


@dataclass(frozen=True, eq=False)
class Sent:
    """Where a step's ids went. Of each table that was asked for, by its place: `distinct` [u] int64, its ids once,
    server by server, and `rows`, of each server that holds some of it the numbers of their rows there. `places` of the
    bags' ids among the distinct, bag by bag. sizes: [servers] int64: how many ids each table asks each server for."""

    distinct: dict[int, tf.Tensor]
    sizes: dict[int, tf.Tensor]
    rows: dict[int, dict[int, tf.Tensor]]
    places: list[tf.Tensor]


class ServerTables:
    """Lookups and updates of tables on parameter servers, with the interface of `exchange.Exchange`. A bag's `table` is
    a place among `configs`.

    A server looks up its rows and sends vectors; it takes the optimizer's step on them, with the worker's summed
    gradient, in TensorFlow's own ops. Steps on one server's rows of one table exclude each other, so that none undoes
    another; between a worker's lookup and its update others' updates may come: training is asynchronous.
    """

    def __init__(self, configs: Mapping[str, TableConfig], plan: ShardingPlan | None, servers: Sequence[str]) -> None:
        """plan: its ranks are the servers; None: every table row-wise over all. servers: their devices.

        Raises:
          ValueError: a table is dynamic, or the plan is not of these tables and servers, or would have a table
            replicated or cut into columns.
        """
        plan = plan or _over_all(configs, len(servers))
        _check(configs, plan, len(servers))
        self._configs, self._servers = list(configs.values()), list(servers)
        self._tables: list[list[ShardedTable]] = []  # by place, then by server
        self._locks: list[list[tf.CriticalSection]] = []
        for place, (name, config) in enumerate(configs.items()):
            tables, locks = [], []
            for server in range(len(servers)):
                with self._at(server), stock_only():
                    tables.append(ShardedTable(config, plan.tables[name], server))
                    locks.append(tf.CriticalSection(shared_name=f"headrace/{id(self)}/{place}"))
            self._tables.append(tables)
            self._locks.append(locks)

    def held(self) -> dict[str, Table]:
        """Every server's part of every table, "server_0/video"."""
        return {
            f"server_{table.rank}/{name}": part
            for tables in self._tables
            for table in tables
            for name, part in table.held().items()
        }

    def shards(self) -> tuple[HeldShard, ...]:
        """The same for whoever saves or exports tables: the coordinator, the only rank, holds them all; a table's parts
        are numbered by server."""
        every = [shard for tables in self._tables for table in tables for shard in held_shards(table)]
        return tuple(replace(shard, rank=0, part=shard.rank) for shard in every)

    def input_dist(self, bags: list[Bag], inserts: bool) -> Sent:
        """Tells each server which of its rows are asked for. inserts: of no meaning to static tables.

        Raises:
          tf.errors.InvalidArgumentError: an id is outside its vocabulary, or a weight is not finite.
        """
        sent = Sent({}, {}, {}, [None] * len(bags))
        with tf.control_dependencies(checks_of(bags, [config.vocabulary_size for config in self._configs])):
            for table in sorted({bag.table for bag in bags}):
                of_table = [b for b, bag in enumerate(bags) if bag.table == table]
                ids = tf.concat([bags[b].ids for b in of_table], 0)
                owners = tf.constant(self._tables[table][0].parts[0].owners)
                distinct, splits, places = unique_by_owner(ids, owners, len(self._servers), modulo=True)
                sent.distinct[table], sent.sizes[table] = distinct, splits[1:] - splits[:-1]
                sent.rows[table] = self._rows(table, self._by_server(sent, table, distinct))
                sizes = [tf.size(bags[b].ids) for b in of_table]
                for b, own in zip(of_table, tf.split(places, sizes), strict=True):
                    sent.places[b] = own
        return sent

    def output_dist(self, sent: Sent, bags: list[Bag]) -> list[tf.Tensor]:
        """[B, dim] float32 of each bag."""
        whole = {}
        for table, rows in sent.rows.items():
            vectors = []
            for server, of_server in rows.items():
                with self._at(server):
                    vectors.append(tf.gather(self._part(table, server).rows, of_server))
            whole[table] = tf.cast(tf.concat(vectors, 0), tf.float32)  # 16 bits travel as 16
        return [pooled(tf.gather(whole[bag.table], places), bag) for bag, places in zip(bags, sent.places, strict=True)]

    def update(self, sent: Sent, bags: list[Bag], gradients: list[tf.Tensor]) -> None:
        """One step of every table that was asked for: gradients [B, dim] of the outputs, summed by row."""
        counts = {table: tf.size(distinct) for table, distinct in sent.distinct.items()}
        for table, summed in summed_at(sent.places, counts, bags, gradients).items():
            # here is the whole of the table's gradient, whose norm is clipped
            clipped = self._configs[table].optimizer.clipped(summed)
            by_server = self._by_server(sent, table, clipped)
            for server, rows in sent.rows[table].items():
                with self._at(server):
                    step = _step(self._part(table, server), rows, tf.identity(by_server[server]))
                    self._locks[table][server].execute(step)

    def _by_server(self, sent: Sent, table: int, values: tf.Tensor) -> list[tf.Tensor]:
        return tf.split(values, sent.sizes[table], num=len(self._servers))

    def _rows(self, table: int, ids: Sequence[tf.Tensor]) -> dict[int, tf.Tensor]:
        rows = {}
        for sharded in self._tables[table]:
            if sharded.parts[0].held is not None:
                with self._at(sharded.rank):
                    rows[sharded.rank] = sharded.rows_of(0, ids[sharded.rank])
        return rows

    def _part(self, table: int, server: int) -> Table:
        part = self._tables[table][server].parts[0].held
        assert part is not None
        return part

    @contextmanager
    def _at(self, server: int) -> Iterator[None]:
        with tf.device(self._servers[server]):
            yield


class ServerUpdate(FusedUpdate):
    """The update fused into the backward pass of steps that several workers take at once: what belongs to one step is
    checked where it is traced, and that gradients come at all is counted on a server."""

    def __init__(self, server: str) -> None:
        """server: the device of one."""
        self._dynamic, self._scaled, self.transient = {}, False, {}
        self._server = server
        self._traced: WeakSet[tf.Graph] = WeakSet()  # with a training call in it
        with tf.device(server):
            self._awaited = tf.Variable(0, dtype=tf.int64, trainable=False, name="awaited")  # gradients
        self.variables = [self._awaited]

    def expect_gradient(self) -> None:
        """Fails when the layer is called for training twice in one step, or has been for long without a gradient.

        Raises:
          ValueError: it is the second call in what is traced. tf.errors.InvalidArgumentError: no gradient comes.
        """
        if not tf.executing_eagerly():
            graph = tf.compat.v1.get_default_graph()
            if graph in self._traced:
                raise ValueError(TWICE)
            self._traced.add(graph)
        with tf.device(self._server):
            self._awaited.assign_add(1)
            tf.debugging.Assert(self._awaited.read_value() <= MOST_AWAITED, [NEVER])

    def _open(self) -> dict[str, bool]:
        return {"differentiated": False}

    def _close(self, opened: dict[str, bool]) -> None:
        if opened["differentiated"]:
            raise ValueError(TWICE)
        opened["differentiated"] = True
        with tf.device(self._server):
            self._awaited.assign(0)


def _step(table: Table, rows: tf.Tensor, gradient: tf.Tensor) -> Callable[[], tf.Tensor]:
    """What a lock is held for: its result is there when the step has been made."""

    def step() -> tf.Tensor:
        with tf.control_dependencies(step_rows(table, rows, gradient)):
            return tf.constant(True)

    return step


def _over_all(configs: Mapping[str, TableConfig], servers: int) -> ShardingPlan:
    everyone = tuple(range(servers))
    return ShardingPlan(servers, {name: TableSharding(name, "row_wise", everyone) for name in configs})


def _check(configs: Mapping[str, TableConfig], plan: ShardingPlan, servers: int) -> None:
    for name, config in configs.items():
        if config.vocabulary_size is None:
            raise ValueError(
                f"table '{name}' is dynamic (its vocabulary_size is None); parameter servers hold static tables only: "
                "give it a vocabulary_size, or train under another strategy"
            )
        if config.track_updates:
            raise ValueError(f"table '{name}': track_updates is not built for parameter servers; leave it out")
    if plan.ranks != servers:
        raise ValueError(f"the sharding plan is for {plan.ranks} ranks; there are {servers} parameter servers")
    if plan.tables.keys() != configs.keys():
        raise ValueError(f"the sharding plan is of tables {sorted(plan.tables)}; the layer has {sorted(configs)}")
    for name, sharding in plan.tables.items():
        if sharding.kind not in ROWS_APART:
            raise ValueError(
                f"table '{name}': the plan has it {sharding.kind}; on parameter servers a table is one of "
                f"{', '.join(ROWS_APART)}"
            )
