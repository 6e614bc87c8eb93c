"""`--tables FILE`: tables as a plain YAML list, with the batch size and the dense layers beside it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field, field_validator, model_validator

from embeddings.planner.documents import read_document
from embeddings.planner.tables import SLOT_BYTES, Dense, TableSpec, Workload
from foundation.config import Config, validated
from foundation.errors import UserError, nearest
from foundation.precision import Precision


class _Table(Config):
    """The keys of one table; what each means: `TableSpec`; in place of features and pooling_factor, pooling_factors may
    say that of each feature. copies: so many tables alike, named name.0, name.1, ..."""

    name: str = Field(min_length=1)
    rows: int = Field(ge=1, le=2**40)
    dim: int = Field(ge=1, le=65_536)
    pooling_factor: float = Field(1.0, gt=0, le=1e6, allow_inf_nan=False)
    zipf_alpha: float = Field(0.0, ge=0, le=5, allow_inf_nan=False)
    optimizer: str = "RowWiseAdagrad"
    features: int = Field(1, ge=1)
    precision: Precision = "float32"
    pooling_factors: tuple[Annotated[float, Field(gt=0, le=1e6, allow_inf_nan=False)], ...] = ()
    copies: int = Field(1, ge=1, le=100_000)

    @field_validator("optimizer")
    @classmethod
    def _known(cls, optimizer: str) -> str:
        if optimizer not in SLOT_BYTES:
            raise ValueError(f"no optimizer '{optimizer}'; {nearest(optimizer, SLOT_BYTES)}")
        return optimizer

    @model_validator(mode="after")
    def _said_once(self) -> _Table:
        if self.pooling_factors and self.model_fields_set & {"features", "pooling_factor"}:
            raise ValueError(
                "pooling_factors says how many features there are, and what each has: leave out the others"
            )
        return self

    def specs(self) -> list[TableSpec]:
        keys = self.model_dump(exclude={"copies", "name", "pooling_factors"})
        names = [self.name] if self.copies == 1 else [f"{self.name}.{copy}" for copy in range(self.copies)]
        specs = [TableSpec(name=name, **keys) for name in names]
        return [spec.looked_up_by(self.pooling_factors) for spec in specs] if self.pooling_factors else specs


class _Workload(Config):
    """batch_size: examples over all ranks. dense_mlp: widths of the dense layers, whose input is the embeddings and
    `dense_features` numbers side by side, or `dense_input` wide where something comes between."""

    batch_size: int = Field(ge=1)
    tables: tuple[_Table, ...]
    dense_mlp: tuple[int, ...] = ()
    dense_features: int = Field(0, ge=0)
    dense_input: int | None = Field(None, ge=1)

    @field_validator("tables", mode="before")
    @classmethod
    def _some(cls, tables: object) -> object:
        if tables == []:
            raise ValueError("there is none; give at least one")
        return tables

    @field_validator("dense_mlp")
    @classmethod
    def _positive(cls, widths: tuple[int, ...]) -> tuple[int, ...]:
        if any(width < 1 for width in widths):
            raise ValueError(f"every width is at least 1; found {list(widths)}")
        return widths


def load_tables(path: str | Path) -> Workload:
    """Reads a tables file.

    Raises:
      UserError: it is missing, a key is misspelt, missing or ill-typed (all are listed), or two tables have one name.
    """
    path = Path(path)
    document: dict[str, Any] = read_document(path, "a tables file")
    keys = validated(_Workload, document, str(path), "tables file")
    specs = [spec for table in keys.tables for spec in table.specs()]
    names = [spec.name for spec in specs]
    repeated = sorted({name for name in names if names.count(name) > 1}) if len(set(names)) < len(names) else []
    if repeated:
        raise UserError(f"{path}: tables: two are named '{repeated[0]}'.", "Give every table a name of its own.")
    workload = Workload(tuple(specs), keys.batch_size)
    if not keys.dense_mlp:
        return workload
    width = keys.dense_input or workload.activation_width + keys.dense_features
    return replace(workload, dense=Dense.stack([width, *keys.dense_mlp]))
