"""With how many bits vectors and gradients travel between ranks."""

from __future__ import annotations

from dataclasses import dataclass

from foundation.precision import PRECISIONS, Precision


@dataclass(frozen=True)
class Wire:
    """The precision of what an exchange sends; sums and steps are float32 all the same. Of 16 bits it sends half the
    bytes, and what is trained is no longer what one process trains, to 1e-5: it is close to it.

    vectors: rounded to the nearest. They are read, never summed into anything that stays: a step's rounding is gone
    with the step. What is beyond float16's range becomes infinite.

    gradients: what a rank sends of a row, its sum over the rank's bags, is rounded up or down with the probabilities
    that make it right on average (Gupta et al., ICML 2015): rounding to the nearest would lose, step after step, what
    is below half a unit of the format. Every receiver of a row gets the same bits, so copies of it stay alike. The
    draw is a hash of where the row stands among those sent, of the column, and of all that the rank sends in the step:
    a repeated run draws the same, and nothing need be kept for it. Error feedback (Seide et al., Interspeech 2014;
    Karimireddy et al., ICML 2019), which adds what was lost to the next gradient of the same row, is not offered: it
    keeps a float32 row, on every rank, for each row that the rank has ever sent, in the end as much as the whole table.
    float16 has a narrow range, beyond which a gradient is its largest number: prefer bfloat16.

    Raises:
      ValueError: a precision is none of "float32", "bfloat16", "float16".
    """

    vectors: Precision = "float32"
    gradients: Precision = "float32"

    def __post_init__(self) -> None:
        for name, precision in (("vectors", self.vectors), ("gradients", self.gradients)):
            if precision not in PRECISIONS:
                raise ValueError(f"wire: {name} are '{precision}'; known: {', '.join(PRECISIONS)}")
