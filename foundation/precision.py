"""How numbers may be stored, for job files and tables alike (no TensorFlow here: a job file is read without it)."""

from typing import Literal, get_args

Precision = Literal["float32", "bfloat16", "float16"]
PRECISIONS: tuple[str, ...] = get_args(Precision)
