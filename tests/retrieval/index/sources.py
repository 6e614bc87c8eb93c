"""Sources of vectors for the tests of the index."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq


def clustered(size: int, dim: int = 16, clusters: int = 40, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    centres = np.random.default_rng(99).normal(size=(clusters, dim))
    return (centres[rng.integers(clusters, size=size)] + 0.4 * rng.normal(size=(size, dim))).astype(np.float32)


def write_npy(folder: Path, ids: np.ndarray, vectors: np.ndarray) -> Path:
    folder.mkdir(parents=True)
    np.save(folder / "ids.npy", ids)
    np.save(folder / "vectors.npy", vectors)
    return folder


def parquet_table(ids: np.ndarray, vectors: np.ndarray) -> pa.Table:
    flat = pa.array(np.ascontiguousarray(vectors, np.float32).ravel())
    return pa.table({"id": ids, "vector": pa.FixedSizeListArray.from_arrays(flat, vectors.shape[1])})


def write_parquet(path: Path, ids: np.ndarray, vectors: np.ndarray, rows: int = 1_000) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(parquet_table(ids, vectors), path, row_group_size=rows)
    return path


def write_zarr(folder: Path, ids: np.ndarray, vectors: np.ndarray) -> Path:
    import tensorstore

    spec = {
        "driver": "zarr3",
        "kvstore": {"driver": "file", "path": str(folder)},
        "metadata": {
            "shape": list(vectors.shape),
            "data_type": "float32",
            "chunk_grid": {"name": "regular", "configuration": {"chunk_shape": [700, vectors.shape[1]]}},
        },
    }
    tensorstore.open(spec, create=True, write=True).result().write(vectors).result()
    np.save(folder / "ids.npy", ids)
    return folder
