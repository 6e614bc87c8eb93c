"""All that decides a ScaNN tree, and the configuration text that says it to ScaNN."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

from foundation.errors import UserError

ReorderPrecision = Literal["float32", "bfloat16", "int8"]

CODES = 16  # of a codebook with 4-bit codes: it cannot be trained on fewer vectors
DEFAULT_NEIGHBOURS = 100
_REORDERED_AS = {"float32": "", "bfloat16": "bfloat16 { enabled: true }", "int8": "fixed_point { enabled: true }"}
_MAX_BLOCKS = 256  # that 16-bit sums of 8-bit lookups hold


@dataclass(frozen=True)
class Effort:
    """What a search spends. leaves_to_search: leaves whose vectors are scored by their codes. reorder: of those, the
    best so many are scored again from the vectors themselves."""

    leaves_to_search: int
    reorder: int


@dataclass(frozen=True)
class TreeSetting:
    """All that decides a tree with asymmetric hashing (AH).

    leaves: partitions of the vectors. leaves_to_search, reorder: the default effort. anisotropic_threshold: T of Guo et
    al. (ICML 2020), eq. 6, as ScaNN takes it; None quantises to the smallest error. soar: lambda of Sun et al. (SOAR,
    NeurIPS 2023): each vector lies in a second leaf too; None: in one. dims_per_block: dimensions that share a 4-bit
    code. reorder_precision: how the vectors scored again are held. training_sample: vectors that centroids and codes
    are trained on. avq: eta by which a centroid's error along its vectors weighs more than that across them (Guo et
    al., eq. 7, for partitions): where norms differ, a mean understates its long vectors; None: plain k-means. codes: of
    4 bits, to a vector, laid out by what queries look at (`Basis`) instead of by dims_per_block; None: not.
    """

    leaves: int
    leaves_to_search: int
    reorder: int
    anisotropic_threshold: float | None = 0.2
    soar: float | None = None
    dims_per_block: int = 2
    reorder_precision: ReorderPrecision = "float32"
    training_sample: int = 250_000
    avq: float | None = None
    codes: int | None = None

    @classmethod
    def usual(cls, size: int) -> TreeSetting:
        """A plain start for so many vectors: sqrt(size) leaves, a tenth of them searched."""
        leaves = max(round(math.sqrt(size)), 1)
        return cls(leaves, max(leaves // 10, 1), min(400, size))

    @property
    def effort(self) -> Effort:
        return Effort(self.leaves_to_search, self.reorder)

    def with_effort(self, effort: Effort) -> TreeSetting:
        return replace(self, leaves_to_search=effort.leaves_to_search, reorder=effort.reorder)

    def fitted(self, size: int) -> TreeSetting:
        """The same with no more leaves, and no more vectors to reorder, than there are vectors.

        Raises:
          UserError: more leaves than vectors that they are to be trained on.
        """
        leaves = min(self.leaves, size)
        if leaves > self.training_sample:
            raise UserError(
                f"the index: {leaves} leaves cannot be trained on {self.training_sample} vectors.",
                "Lower index.leaves or raise index.training_sample.",
            )
        return replace(
            self, leaves=leaves, leaves_to_search=min(self.leaves_to_search, leaves), reorder=min(self.reorder, size)
        )


def exact_config() -> str:
    """ScaNN's configuration (text protocol buffer) of a search that scores every vector in float32."""
    return _HEAD + "brute_force { fixed_point { enabled: false } }"


Blocks = Sequence[tuple[int, int]]  # (codes, dimensions of each) one after the other


def blocks_of(dim: int, dims_per_block: int) -> Blocks:
    """A code for every so many of `dim` dimensions as they are, the last perhaps for fewer."""
    whole, rest = divmod(dim, dims_per_block)
    return [*([(whole, dims_per_block)] * (whole > 0)), *([(1, rest)] * (rest > 0))]


def tree_config(setting: TreeSetting, blocks: Blocks) -> str:
    """ScaNN's configuration (text protocol buffer) of a tree over vectors whose dimensions have such codes."""
    return f"""{codes_config(setting, blocks)}
exact_reordering {{
  approx_num_neighbors: {setting.reorder}
  {_REORDERED_AS[setting.reorder_precision]}
}}
"""


def reordering_in_float32(reorder: int) -> bytes:
    """What `tree_config` says beyond `codes_config` where the precision is float32, as a serialised ScannConfig: two of
    them one after the other are their union. (Field 17 is exact_reordering, in it field 1 approx_num_neighbors.)"""
    number = b""
    while reorder >= 0x80:
        number, reorder = number + bytes([reorder & 0x7F | 0x80]), reorder >> 7
    message = b"\x08" + number + bytes([reorder])
    return b"\x8a\x01" + bytes([len(message)]) + message


def codes_config(setting: TreeSetting, blocks: Blocks) -> str:
    """The same without scoring candidates again: ScaNN then keeps the codes alone, not the vectors."""
    threshold = "nan" if setting.anisotropic_threshold is None else setting.anisotropic_threshold
    soar = (
        ""
        if setting.soar is None
        else "database_spilling { spilling_type: TWO_CENTER_ORTHOGONALITY_AMPLIFIED "
        f"orthogonality_amplification_lambda: {setting.soar} }}"
    )
    avq = "" if setting.avq is None else f"avq: {setting.avq}"
    dim = sum(codes * dims for codes, dims in blocks)
    parts = [f"num_blocks: {codes} num_dims_per_block: {dims}" for codes, dims in blocks]
    projection = f"projection_type: CHUNK input_dim: {dim} {parts[0]}"
    if len(parts) > 1:
        variable = " ".join(f"variable_blocks {{ {part} }}" for part in parts)
        projection = f"projection_type: VARIABLE_CHUNK input_dim: {dim} {variable}"
    sums_fit = "true" if sum(codes for codes, _ in blocks) <= _MAX_BLOCKS else "false"
    return f"""{_HEAD}
partitioning {{
  num_children: {setting.leaves}
  max_clustering_iterations: 12
  min_cluster_size: 1
  partitioning_distance {{ distance_measure: "SquaredL2Distance" }}
  query_spilling {{ spilling_type: FIXED_NUMBER_OF_CENTERS max_spill_centers: {setting.leaves_to_search} }}
  query_tokenization_distance_override {{ distance_measure: "DotProductDistance" }}
  partitioning_type: GENERIC
  query_tokenization_type: FLOAT
  expected_sample_size: {setting.training_sample}
  single_machine_center_initialization: RANDOM_INITIALIZATION
  {soar}
  {avq}
}}
hash {{
  asymmetric_hash {{
    projection {{ {projection} }}
    num_clusters_per_block: {CODES}
    max_clustering_iterations: 10
    quantization_distance {{ distance_measure: "SquaredL2Distance" }}
    lookup_type: INT8_LUT16
    use_residual_quantization: true
    use_global_topn: {sums_fit}
    fixed_point_lut_conversion_options {{ float_to_int_conversion_method: ROUND }}
    noise_shaping_threshold: {threshold}
    expected_sample_size: {setting.training_sample}
  }}
}}
"""


_HEAD = f"""num_neighbors: {DEFAULT_NEIGHBOURS}
distance_measure {{ distance_measure: "DotProductDistance" }}
"""
