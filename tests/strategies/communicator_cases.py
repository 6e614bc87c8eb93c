"""What a rank does with its communicator, once for every promise, and what numpy says should come of it."""

from __future__ import annotations

import numpy as np

from foundation.tf import tf

DTYPES = ("int64", "int32", "float32", "bfloat16", "float16")
SHAPES = {"flat": (), "rows": (3,), "blocks": (2, 5)}
EVERY_SHAPE = ("float32", "bfloat16", "int64")  # dtypes exchanged in each of them; the others as rows
LOOPS = 6
CALLS = 20
RANDOM_ROUNDS = 30
LARGE_ROWS, LARGE_WIDTH = 40_000, 64  # 10 MB from each rank to each


def shapes_of(dtype: str) -> dict[str, tuple[int, ...]]:
    return SHAPES if dtype in EVERY_SHAPE else {"rows": SHAPES["rows"]}


def sizes_of(case: str, ranks: int) -> np.ndarray:
    """[ranks, ranks] int64: how many rows go from whom to whom."""
    sizes = np.random.default_rng(len(case)).integers(1, 9, (ranks, ranks))
    if case == "with empty parts":
        sizes[np.arange(ranks), (np.arange(ranks) + 1) % ranks] = 0
    elif case == "one sends nothing":
        sizes[0] = 0
    elif case == "one receives nothing":
        sizes[:, -1] = 0
    elif case == "nothing at all":
        sizes[:] = 0
    return sizes


CASES = ("uneven", "with empty parts", "one sends nothing", "one receives nothing", "nothing at all")


def values_of(rank: int, shape: tuple[int, ...], salt: int = 0) -> np.ndarray:
    """Whole numbers small enough for every dtype to hold them and their sums."""
    return np.random.default_rng([rank, salt]).integers(0, 40, shape).astype(np.float32)


def parts_of(sizes: np.ndarray, shape: tuple[int, ...], receiver: int, salt: int = 0) -> np.ndarray:
    """What an all-to-all gives `receiver`."""
    parts = []
    for sender in range(len(sizes)):
        start = sizes[sender, :receiver].sum()
        rows = values_of(sender, (sizes[sender].sum(), *shape), salt)
        parts.append(rows[start : start + sizes[sender, receiver]])
    return np.concatenate(parts)


def traced(communicator, shape: tuple[int, ...], dtype: str):
    """all_to_all as a tf.function traced once, lengths unknown, as a batch's are. (Rank by rank as the lengths are
    others, ranks would not trace alike.)"""
    ranks = communicator.size
    signature = [tf.TensorSpec([None, *shape], dtype), tf.TensorSpec([ranks, ranks], tf.int64)]
    return tf.function(communicator.all_to_all, input_signature=signature)


def every_kind(communicator) -> dict[str, np.ndarray]:
    """Every exchange of every dtype, eagerly and in a tf.function."""
    rank, ranks = communicator.rank, communicator.size
    found = {}
    for mode, wrapped in (("eager", lambda step: step), ("graph", tf.function)):
        for dtype in DTYPES:
            for name, shape in shapes_of(dtype).items():
                exchange = communicator.all_to_all if mode == "eager" else traced(communicator, shape, dtype)
                for case in CASES:
                    sizes = sizes_of(case, ranks)
                    rows = tf.cast(values_of(rank, (sizes[rank].sum(), *shape)), dtype)
                    received = exchange(rows, tf.constant(sizes))
                    assert received.dtype == rows.dtype
                    found[f"{mode}/all_to_all/{case}/{dtype}/{name}"] = tf.cast(received, tf.float32).numpy()
        for dtype in DTYPES:
            value = tf.cast(values_of(rank, (4, 3)), dtype)
            results = {
                "all_gather": wrapped(communicator.all_gather)(value),
                "all_reduce": wrapped(communicator.all_reduce)(value),
                "broadcast": wrapped(lambda value: communicator.broadcast(value, root=1))(value),
            }
            for kind, result in results.items():
                assert result.dtype == value.dtype
                found[f"{mode}/{kind}/{dtype}"] = tf.cast(result, tf.float32).numpy()
        found[f"{mode}/all_reduce/scalar"] = wrapped(communicator.all_reduce)(tf.constant(rank + 1.0)).numpy()
        found[f"{mode}/all_reduce/no rows"] = wrapped(communicator.all_reduce)(tf.zeros((0, 3))).numpy()
    return found


def loop_of_exchanges(communicator) -> dict[str, tf.Tensor]:
    """Rows go round and round: each round needs the one before."""
    ranks = communicator.size
    sizes = np.roll(np.eye(ranks, dtype=np.int64) * 4, 1, axis=1)  # all to the next rank

    @tf.function(input_signature=[tf.TensorSpec([None, 3])])
    def around(rows):
        for _ in tf.range(LOOPS):
            rows = communicator.all_to_all(rows, tf.constant(sizes)) + 1.0
            rows.set_shape([None, 3])
        return rows

    return {"rows": around(tf.constant(values_of(communicator.rank, (4, 3))))}


def loop_of_rounds_apart(communicator) -> dict[str, tf.Tensor]:
    """No round needs another, so TensorFlow would start several at once; and another call stands after the loop."""

    @tf.function
    def step(value):
        total = tf.zeros_like(value)
        for k in tf.range(LOOPS):
            total += communicator.all_reduce(value * tf.cast(k, tf.float32))
            if k % 2 == 0:
                total += communicator.all_reduce(value)
        return total, communicator.all_reduce(value)

    total, after = step(tf.constant(values_of(communicator.rank, (4, 3))))
    return {"total": total, "after": after}


def twenty_in_no_order(communicator) -> dict[str, tf.Tensor]:
    """Twenty calls of which none needs another, three times over."""
    rank, ranks = communicator.rank, communicator.size

    @tf.function
    def step(salted):
        results = {}
        for k in range(CALLS):
            kind = ("all_reduce", "all_gather", "broadcast", "all_to_all")[k % 4]
            with tf.name_scope(f"layer_{rank}"):  # names of scopes may differ
                if kind == "all_to_all":
                    results[f"{kind}/{k}"] = communicator.all_to_all(salted[k], tf.constant(sizes_of("uneven", ranks)))
                else:
                    results[f"{kind}/{k}"] = getattr(communicator, kind)(salted[k])
        return results

    rows = sizes_of("uneven", ranks)[rank].sum()
    given = [tf.constant(values_of(rank, (rows if k % 4 == 3 else 4, 3), salt=k)) for k in range(CALLS)]
    for _ in range(3):
        results = step(given)
    return results


def in_another_order_on_each_rank(communicator) -> dict[str, tf.Tensor]:
    """Twenty calls whose values come to be ready in rising order on rank 0, falling on the others. With one thread for
    TensorFlow's ops, a call that blocked it would wait for ever."""
    rank = communicator.rank

    @tf.function
    def step(values):
        order = range(CALLS) if rank == 0 else reversed(range(CALLS))
        ready, done = {}, []
        for k in order:
            with tf.control_dependencies(done):
                ready[k] = tf.reduce_logsumexp(values[k] * tf.ones([64, 1, 1]), 0) - tf.math.log(64.0)
            done = [ready[k]]
        return {str(k): communicator.all_reduce(ready[k]) for k in range(CALLS)}

    given = [tf.constant(values_of(rank, (4, 3), salt=k)) for k in range(CALLS)]
    for _ in range(3):
        results = step(given)
    return results


def nested(communicator) -> dict[str, tf.Tensor]:
    """A function called twice by another, and by a branch."""

    @tf.function
    def inner(value):
        return communicator.all_reduce(value) + communicator.all_reduce(value * 2.0)

    @tf.function
    def outer(value, really):
        first, second = inner(value), inner(value + 1.0)
        third = inner(value + 2.0) if really else tf.zeros_like(value)
        return first, second, third, communicator.all_reduce(value)

    results = outer(tf.constant(values_of(communicator.rank, (4, 3))), tf.constant(True))
    return dict(zip(("first", "second", "third", "own"), results, strict=True))


def constants(communicator) -> dict[str, tf.Tensor]:
    """What is a constant on one rank, or equal to another, is not on the next: none may be folded or merged."""
    rank = communicator.rank
    variable = tf.Variable([10.0 + rank])

    @tf.function
    def step():
        value = tf.constant([5.0]) if rank == 0 else variable.read_value()
        twice, thrice = tf.constant([2.0 * rank]), tf.constant([3.0 * rank])
        sent = communicator.broadcast(value), communicator.all_gather(twice), communicator.all_gather(thrice)
        return (*sent, communicator.all_to_all(twice[:0], tf.zeros([communicator.size] * 2, tf.int64)))

    results = step()
    results = step()
    return dict(zip(("value", "twice", "thrice", "none"), results, strict=True))


def unread(communicator) -> dict[str, tf.Tensor]:
    """Rank 0 alone reads the result."""

    @tf.function
    def step(value):
        result = communicator.all_reduce(value)
        return result if communicator.rank == 0 else tf.zeros_like(value)

    return {"sum": step(tf.constant(values_of(communicator.rank, (4, 3))))}


def random_rounds(communicator) -> dict[str, tf.Tensor]:
    """One call whose sizes and lengths are others each time, many of them none."""
    rank, ranks = communicator.rank, communicator.size
    exchange = traced(communicator, (3,), "float32")
    found = {}
    for k in range(RANDOM_ROUNDS):
        rows = values_of(rank, (random_sizes(k, ranks)[rank].sum(), 3), salt=k)
        found[str(k)] = exchange(tf.constant(rows), tf.constant(random_sizes(k, ranks)))
    return found


def random_sizes(k: int, ranks: int) -> np.ndarray:
    rng = np.random.default_rng([k, ranks])
    return rng.integers(0, rng.choice([1, 3, 100, 3_000]), (ranks, ranks)) * rng.integers(0, 2, (ranks, ranks))


def large(communicator) -> dict[str, np.ndarray]:
    """Some tens of MB; a digest of what came."""
    rank, ranks = communicator.rank, communicator.size
    sizes = np.full((ranks, ranks), LARGE_ROWS)
    rows = tf.range(ranks * LARGE_ROWS * LARGE_WIDTH, dtype=tf.int32) + rank
    received = communicator.all_to_all(tf.reshape(rows, [-1, LARGE_WIDTH]), tf.constant(sizes))
    total = communicator.all_reduce(tf.reshape(rows, [-1, LARGE_WIDTH]))
    return {"received": tf.reduce_sum(tf.cast(received, tf.int64), 1).numpy()[::997], "total": total[-1].numpy()}


def retraced(communicator) -> dict[str, tf.Tensor]:
    """One rank has traced the function, and others, oftener than the rest."""

    @tf.function
    def step(value, flag):
        return communicator.all_gather(communicator.all_reduce(value))

    if communicator.rank == 1:
        for extra in range(3):
            step.get_concrete_function(tf.TensorSpec([4, 3]), extra)
    return {"gathered": step(tf.constant(values_of(communicator.rank, (4, 3))), 7)}


def errors(communicator) -> dict[str, str]:
    """What is said of arguments that are wrong; and that the next call is right again."""
    rank, ranks = communicator.rank, communicator.size
    sizes = sizes_of("uneven", ranks)
    rows = tf.zeros((sizes[rank].sum() + 1, 3))
    other = sizes.copy()
    if rank == 1:  # thinks it is sent one more
        other[0, 1] += 1

    def message(exchange, *arguments) -> str:
        try:
            exchange(*arguments)
        except (tf.errors.InvalidArgumentError, ValueError) as error:
            return str(error)
        return "none"

    found = {}
    for mode, wrapped in (("eager", lambda step: step), ("graph", tf.function)):
        exchange = wrapped(communicator.all_to_all)
        found[f"{mode}/cover"] = message(exchange, rows, tf.constant(sizes))
        found[f"{mode}/disagree"] = message(exchange, rows[:-1], tf.constant(other))
    found["root"] = message(communicator.broadcast, tf.zeros(1), ranks)
    return found


# Of all communicators.
PROMISES = (
    every_kind,
    loop_of_exchanges,
    loop_of_rounds_apart,
    twenty_in_no_order,
    in_another_order_on_each_rank,
    nested,
    constants,
    unread,
    random_rounds,
    large,
)
# Of those that pair calls by name and compare what ranks say: TensorFlow's collectives do neither.
MORE_PROMISES = (retraced, errors)
