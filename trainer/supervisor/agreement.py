"""Whether the ranks run the same job with the same code: what they say of it, compared."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from foundation.errors import UserError


def disagreement(digests: Sequence[Mapping[str, str]]) -> UserError | None:
    """Compares what each rank, in rank order, says it runs: {"job": digest, "tensorflow": version, ...}. Returns None
    when all say the same, or else an error that names which ranks differ in what."""
    said = {name: [own.get(name, "nothing") for own in digests] for name in sorted(set().union(*digests))}
    lines = [f"  {name}: {_compared(values)}" for name, values in said.items() if len(set(values)) > 1]
    if not lines:
        return None
    return UserError(
        "the ranks disagree on what they run, so none of them starts:\n" + "\n".join(lines),
        "Start every rank with the same job, code and environment.",
    )


def _compared(values: list[str]) -> str:
    """ "ranks 0 and 2 have A; rank 1 has B"."""
    ranks_with: dict[str, list[int]] = {}
    for rank, value in enumerate(values):
        ranks_with.setdefault(value, []).append(rank)
    return "; ".join(
        f"{_named(ranks)} {'has' if len(ranks) == 1 else 'have'} {value}" for value, ranks in ranks_with.items()
    )


def _named(ranks: Sequence[int]) -> str:
    """ "rank 1", "ranks 0, 2 and 3"."""
    if len(ranks) == 1:
        return f"rank {ranks[0]}"
    return f"ranks {', '.join(map(str, ranks[:-1]))} and {ranks[-1]}"
