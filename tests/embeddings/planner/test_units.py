"""Quantities carry units, and a wrong one is named."""

import pytest

from embeddings.planner.units import BANDWIDTH, DIMENSIONS, FLOPS, ID_RATE, SIZE, TIME, parse, written


@pytest.mark.parametrize(
    ("text", "dimension", "value"),
    [
        ("80 GB", SIZE, 80e9),
        ("95GiB", SIZE, 95 * 2**30),
        ("0.5 B", SIZE, 0.5),
        ("2039 GB/s", BANDWIDTH, 2039e9),
        ("200 Gbit/s", BANDWIDTH, 25e9),
        ("1.5e3 MB/s", BANDWIDTH, 1.5e9),
        ("156 TFLOP/s", FLOPS, 156e12),
        ("5 us", TIME, 5e-6),
        ("0 s", TIME, 0.0),
        ("3 Gids/s", ID_RATE, 3e9),
    ],
)
def test_a_quantity_is_read(text, dimension, value):
    assert parse(text, dimension) == pytest.approx(value)


@pytest.mark.parametrize(
    ("text", "dimension", "message"),
    [
        ("2039 GB", BANDWIDTH, "'GB' is a unit of size: a bandwidth with its unit is wanted, such as '2039 GB/s'"),
        ("80 GB/s", SIZE, "'GB/s' is a unit of bandwidth: a size"),
        ("80 gb", SIZE, "'gb' is no unit known here"),
        ("80", SIZE, "the unit is missing"),
        (80, SIZE, "a size with its unit is wanted, such as '80 GB'; found 80"),
        (None, TIME, "found None"),
        (True, TIME, "found True"),
        ("fast", BANDWIDTH, "found 'fast'"),
        ("-3 GB", SIZE, "found '-3 GB'"),
        ("nan GB", SIZE, "found 'nan GB'"),
        ("5 min", TIME, "'min' is no unit known here"),
        ("", SIZE, "found ''"),
    ],
)
def test_what_is_no_quantity_is_named(text, dimension, message):
    with pytest.raises(ValueError, match="wanted") as error:
        parse(text, dimension)
    assert message in str(error.value)


@pytest.mark.parametrize("dimension", DIMENSIONS, ids=lambda dimension: dimension.name)
@pytest.mark.parametrize("value", [0.0, 3e-7, 1.0, 999.4, 2.039e12])
def test_what_is_written_reads_back(dimension, value):
    assert parse(written(value, dimension), dimension) == pytest.approx(value, rel=1e-3)
