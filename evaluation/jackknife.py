"""Confidence intervals by the leave-one-cluster-out jackknife, for statistics that are no function of sums.

The bootstrap is wrong for catalogue coverage: a resample holds only 63% of the users, so its union of shown items is
smaller than the sample's own and the interval lies below the value. The jackknife's variance is, for any symmetric
statistic, at worst too large on average: B. Efron and C. Stein, "The jackknife estimate of variance", Annals of
Statistics 9(3), 1981.
"""

from __future__ import annotations

import numpy as np
from scipy.special import ndtri

from evaluation.bootstrap import Interval


def jackknife(
    value: float, left_out: np.ndarray, confidence: float = 0.95, bounds: tuple[float, float] = (0.0, 1.0)
) -> Interval:
    """The normal interval around `value`.

    Args:
      value: the statistic over all clusters.
      left_out: [clusters] the statistic without each cluster in turn; NaN where it is then undefined.
      bounds: the interval is cut to the statistic's range.
    """
    known = left_out[~np.isnan(left_out)]
    if len(known) < 2 or np.isnan(value):
        return Interval(value, np.nan, np.nan)
    error = np.sqrt((len(known) - 1) / len(known) * np.sum((known - known.mean()) ** 2))
    reach = ndtri((1 + confidence) / 2) * error
    return Interval(value, float(max(bounds[0], value - reach)), float(min(bounds[1], value + reach)))
