"""What is asked of a model between its training steps."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from operator import call
from pathlib import Path
from typing import Any

from embeddings.checkpoints import restore_tables, save_tables
from embeddings.dense import DenseCheckpoint
from strategies import Strategy


class Twin:
    """`model`: to be asked, by `run`: the trained one; or, where that one's tables answer in its steps alone (a TPU's),
    another of this process' own, as the trained one was when `renew` was last called."""

    def __init__(self, trained: Any, strategy: Strategy, new: Callable[[], Any]) -> None:
        """new: makes an untrained model of the same kind outside the strategy's scope."""
        itself = trained.embedding.answers_between_steps
        self._trained = trained
        self.model: Any = trained if itself else new()
        self.run: Callable[..., Any] = strategy.run if itself else call

    def renew(self) -> None:
        if self.model is self._trained:
            return
        with tempfile.TemporaryDirectory(prefix="headrace-twin-") as name:
            folder = Path(name)
            DenseCheckpoint(model=self._trained).write(str(folder / "variables"))
            DenseCheckpoint(model=self.model).read(str(folder / "variables"))
            save_tables(self._trained.embedding, folder / "tables")
            restore_tables(self.model.embedding, folder / "tables")
