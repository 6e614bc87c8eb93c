"""Names of calls that are being traced, by which the ranks' calls are paired."""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator
from weakref import WeakKeyDictionary

from foundation.tf import tf


class CallNames:
    """A call in a tf.function is named after the function and numbered in it, whatever name scopes, loops and other
    functions are around it: so ranks agree that trace the same calls in the same order, however often each retraces."""

    def __init__(self) -> None:
        self._calls: WeakKeyDictionary[tf.Graph, Iterator[int]] = WeakKeyDictionary()  # traced, by function

    def next(self, kind: str) -> str:
        """The name of a call of that kind that is being traced. TensorFlow's own number at the end of a function's name
        is left out: it counts what else this process has traced."""
        graph = tf.compat.v1.get_default_graph()
        while getattr(graph, "is_control_flow_graph", False):  # the body of a loop, a branch: of the function around it
            graph = graph.outer_graph
        function = re.sub(r"[^A-Za-z0-9_]", "_", re.sub(r"(_\d+)+$", "", getattr(graph, "name", "graph")))
        return f"{function}.{kind}.{next(self._calls.setdefault(graph, itertools.count()))}"
