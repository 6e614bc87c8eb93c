import pytest
from pydantic import ValidationError

from inputs.simulate.config import SimulateConfig


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"users": 0}, "greater than or equal to 1"),
        ({"items": 70}, "items .70. must be so many"),
        ({"impressions": 100}, "at least one list"),
        ({"candidates": 20}, "at least 4 times slate_size"),
        ({"explore_share": 0.7, "trending_share": 0.4}, "together at most 1"),
        ({"novelty_half_life_days": 0}, "greater than or equal to"),
        ({"temperature": float("nan")}, "temperature"),
        ({"position_decay": float("inf")}, "less than or equal to 5"),
        ({"seed": -1}, "greater than or equal to 0"),
        ({"start": "yesterday"}, "start"),
        ({"user": 5}, "Extra inputs are not permitted"),
    ],
)
def test_bad_values_are_told_apart(options, told):
    with pytest.raises(ValidationError, match=told):
        SimulateConfig(**options)
