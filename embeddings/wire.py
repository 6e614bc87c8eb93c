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
    a repeated run draws the same, and nothing need be kept for it. float16 has a narrow range, beyond which a gradient
    is its largest number: prefer bfloat16.

    error_feedback: what rounding took from a gradient is added to the next one of the same row (Seide et al.,
    Interspeech 2014), see `embeddings.error_feedback`; gradients in 16 bits. It is kept for static rows that every rank
    holds a copy of (data-parallel tables, hot rows): as much memory again as these rows. For others it would grow to a
    whole table on every rank; their gradients stay right on average. A checkpoint does not hold it: going on from one
    costs a rounding of each row, and the bits are not those of a run that was never stopped.

    Raises:
      ValueError: a precision is none of "float32", "bfloat16", "float16", or error feedback is asked where nothing is
        rounded.
    """

    vectors: Precision = "float32"
    gradients: Precision = "float32"
    error_feedback: bool = False

    def __post_init__(self) -> None:
        for name, precision in (("vectors", self.vectors), ("gradients", self.gradients)):
            if precision not in PRECISIONS:
                raise ValueError(f"wire: {name} are '{precision}'; known: {', '.join(PRECISIONS)}")
        if self.error_feedback and self.gradients == "float32":
            raise ValueError("wire: error feedback is of gradients in 16 bits; these are float32, and nothing is lost")
