"""Expected distinct ids against exact sums and against draws."""

import numpy as np
import pytest

from embeddings.planner.zipf import BoundedZipf, fitted_alpha


def _exact(rows, alpha, draws, hottest=None):
    weights = np.arange(1, rows + 1, dtype=np.float64) ** -alpha
    p = weights / weights.sum()
    with np.errstate(divide="ignore"):
        seen = -np.expm1(draws * np.log1p(-p))
    return seen[:hottest].sum()


@pytest.mark.parametrize("rows", [1, 2, 255, 256, 257, 1_000, 300_000])
@pytest.mark.parametrize("alpha", [0.0, 0.5, 1.0, 1.05, 2.0])
@pytest.mark.parametrize("draws", [1, 100, 65_536.5, 1e7])
def test_distinct_is_the_exact_sum(rows, alpha, draws):
    assert BoundedZipf(rows, alpha).distinct(draws) == pytest.approx(_exact(rows, alpha, draws), rel=1e-4)


@pytest.mark.parametrize("hottest", [1, 100, 5_000, 300_000])
def test_the_hottest_rows_alone(hottest):
    law = BoundedZipf(300_000, 1.05)
    assert law.distinct_hottest(1e5, hottest) == pytest.approx(_exact(300_000, 1.05, 1e5, hottest), rel=1e-4)
    weights = np.arange(1, 300_001, dtype=np.float64) ** -1.05
    assert law.share(hottest) == pytest.approx(weights[:hottest].sum() / weights.sum(), rel=1e-4)


def test_a_billion_rows_uniform_have_a_closed_form():
    rows, draws = 10**9, 65_536
    assert BoundedZipf(rows, 0.0).distinct(draws) == pytest.approx(
        rows * -np.expm1(draws * np.log1p(-1 / rows)), rel=1e-5
    )


def test_draws_agree():
    rng = np.random.default_rng(0)
    weights = np.arange(1, 10_001, dtype=np.float64) ** -1.1
    drawn = [len(np.unique(rng.choice(10_000, 8_192, p=weights / weights.sum()))) for _ in range(20)]
    assert BoundedZipf(10_000, 1.1).distinct(8_192) == pytest.approx(np.mean(drawn), rel=0.01)


@pytest.mark.parametrize("alpha", [0.3, 1.0, 1.05, 1.6])
@pytest.mark.parametrize("share", [0.2, 0.5, 0.8])
def test_about_so_many_rows_have_the_share(alpha, share):
    law = BoundedZipf(10**6, alpha)
    least = law.share(1)  # the most frequent id alone may have more
    assert law.share(law.hottest_with(share)) == pytest.approx(max(share, least), abs=0.2)


@pytest.mark.parametrize("alpha", [0.0, 0.7, 1.05, 1.5])
def test_the_exponent_is_found_again(alpha):
    distinct = round(BoundedZipf(100_000, alpha).distinct(200_000))
    assert fitted_alpha(100_000, 200_000, distinct) == pytest.approx(alpha, abs=0.06)


def test_one_row():
    assert BoundedZipf(1, 1.05).distinct(10) == pytest.approx(1.0)
    assert fitted_alpha(1, 10, 1) >= 0
