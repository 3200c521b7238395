"""Intervals for every number this project reports.

N paired episodes or measurements, R bootstrap resamples. All intervals are two-sided at `confidence`.
"""

from __future__ import annotations

from dataclasses import dataclass
from statistics import NormalDist

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import stdtrit

CONFIDENCE = 0.95
NUM_RESAMPLES = 10_000
FEWEST_GROUPS = 8  # resampling three of them gives the least one three times in 4 % of the draws
_BLOCK_ELEMENTS = 2_000_000  # bounds the index matrix of one block to 16 MB, whatever N and R are


@dataclass(frozen=True)
class Interval:
    """A point estimate with the two ends of its confidence interval, in the unit of the estimate."""

    value: float
    low: float
    high: float


def wilson_interval(successes: int, episodes: int, *, confidence: float = CONFIDENCE) -> Interval:
    """Success rate in [0, 1] with its Wilson score interval.

    Unlike the normal approximation it stays inside [0, 1] and is not empty at 0 or N successes.
    Source: Wilson 1927; Brown, Cai and DasGupta 2001, equation 4.

    Raises:
        ValueError: episodes is not positive, or successes is outside [0, episodes].
    """
    _check_confidence(confidence)
    if episodes <= 0:
        raise ValueError(
            f"wilson_interval: episodes = {episodes}; a rate needs at least 1 episode, run some first"
        )
    if not 0 <= successes <= episodes:
        raise ValueError(f"wilson_interval: successes = {successes}; allowed are 0 to episodes = {episodes}")
    z = NormalDist().inv_cdf(0.5 + confidence / 2)
    rate = successes / episodes
    scale = 1 + z**2 / episodes
    centre = (rate + z**2 / (2 * episodes)) / scale
    half = z / scale * np.sqrt(rate * (1 - rate) / episodes + z**2 / (4 * episodes**2))
    # At the ends the exact value is rate itself; floating point would give 1e-17 instead of 0.
    low = 0.0 if successes == 0 else float(centre - half)
    high = 1.0 if successes == episodes else float(centre + half)
    return Interval(rate, low, high)


def paired_rates(first: ArrayLike, second: ArrayLike, *, confidence: float = CONFIDENCE) -> Interval:
    """Success rate of `first` − that of `second`, in [−1, 1], of two policies on the *same* N scenes.

    What both share narrows it; where all end alike it is not empty, as a bootstrap's would be.
    Source: Newcombe 1998, paired data, method 10 (Wilson's intervals, squared and added).

    Args:
        first, second: (N,) successes, 0 or 1, in the same order.

    Raises:
        ValueError: lengths differ, no scene, or a value that is neither 0 nor 1.
    """
    left, right = _paired_vectors(first, second)
    if not np.isin((left, right), (0.0, 1.0)).all():
        raise ValueError("paired_rates: successes are 0 or 1; take `paired_bootstrap` for scores")
    episodes, wins, others = left.size, int(left.sum()), int(right.sum())
    a = wilson_interval(wins, episodes, confidence=confidence)
    b = wilson_interval(others, episodes, confidence=confidence)
    both = float(left @ right)
    shared = both * (episodes - wins - others + both) - (wins - both) * (others - both)
    if shared > 0:
        shared = max(shared - episodes / 2, 0.0)
    scale = np.sqrt(float(wins) * (episodes - wins) * others * (episodes - others))
    phi = shared / scale if scale else 0.0

    def added(x: float, y: float) -> float:
        return float(np.sqrt(max(x * x - 2 * phi * x * y + y * y, 0.0)))

    value = a.value - b.value
    low = value - added(a.value - a.low, b.high - b.value)
    return Interval(value, low, value + added(a.high - a.value, b.value - b.low))


def mean_over_runs(values: ArrayLike, *, confidence: float = CONFIDENCE) -> Interval:
    """Mean of a figure (N,) of N independent runs, such as training seeds, with Student's t interval.

    For few runs: resampled, three of them give an interval from the least to the most, and it leaves out a
    difference of nothing in a quarter of all cases.

    Raises:
        ValueError: fewer than two runs, not one-dimensional, or not finite.
    """
    _check_confidence(confidence)
    sample = _finite_vector("values", values)
    if sample.size < 2:
        raise ValueError("mean_over_runs: 1 run says nothing of the next; run at least 2")
    half = stdtrit(sample.size - 1, 0.5 + confidence / 2) * sample.std(ddof=1) / np.sqrt(sample.size)
    mean = float(sample.mean())
    return Interval(mean, mean - float(half), mean + float(half))


def bootstrap_mean(
    values: ArrayLike,
    *,
    groups: ArrayLike | None = None,
    seed: int = 0,
    num_resamples: int = NUM_RESAMPLES,
    confidence: float = CONFIDENCE,
) -> Interval:
    """Mean of `values` (N,) with its percentile bootstrap interval.

    `groups` (N,) names what was really repeated, such as the episode of each value; then whole groups are
    resampled, because values of one episode are not independent evidence.

    Raises:
        ValueError: values is empty, not one-dimensional, or not finite, or `groups` names fewer than
            `FEWEST_GROUPS` groups.
    """
    sample = _finite_vector("values", values)
    sums, counts = _sums_by_group(sample, groups)
    means = _resampled_means(sums, counts, seed, num_resamples)
    return _percentile_interval(float(sample.mean()), means, confidence)


def paired_bootstrap(
    first: ArrayLike,
    second: ArrayLike,
    *,
    groups: ArrayLike | None = None,
    seed: int = 0,
    num_resamples: int = NUM_RESAMPLES,
    confidence: float = CONFIDENCE,
) -> Interval:
    """mean(first) − mean(second) with its percentile bootstrap interval over pairs.

    `first` and `second` (N,) are any score of two policies on the *same* N episode seeds, in the same order:
    what both share cancels. Successes, one of each scene: `paired_rates`. `groups` as of `bootstrap_mean`.

    Raises:
        ValueError: lengths differ, or as of `bootstrap_mean`.
    """
    left, right = _paired_vectors(first, second)
    return bootstrap_mean(
        left - right, groups=groups, seed=seed, num_resamples=num_resamples, confidence=confidence
    )


def spearman(
    first: ArrayLike,
    second: ArrayLike,
    *,
    seed: int = 0,
    num_resamples: int = 2_000,
    confidence: float = CONFIDENCE,
) -> Interval:
    """Spearman rank correlation in [−1, 1], ties at their mean rank, with a bootstrap interval over pairs.

    Raises:
        ValueError: fewer than 3 pairs, lengths differ, a value is not finite, or one side is constant.
    """
    left, right = _paired_vectors(first, second)
    if left.size < 3:
        raise ValueError(f"spearman: {left.size} pairs; a rank correlation needs at least 3, measure more")
    for name, side in (("first", left), ("second", right)):
        if np.ptp(side) == 0:
            raise ValueError(
                f"spearman: {name} is constant at {side[0]:g}; a rank correlation needs values that differ"
            )
    rng = np.random.default_rng(seed)
    resampled = np.empty(num_resamples)
    for row in range(num_resamples):
        pick = rng.integers(left.size, size=left.size)
        resampled[row] = _rank_correlation(left[pick], right[pick])
    # A resample that drew one value only has no correlation; it says nothing about the interval.
    defined = resampled[np.isfinite(resampled)]
    return _percentile_interval(_rank_correlation(left, right), defined, confidence)


def p50_p95(values: ArrayLike) -> dict[str, float]:
    """Median and 95th percentile of `values` (N,), in their unit, as `{"p50": …, "p95": …}`.

    Raises:
        ValueError: values is empty, not one-dimensional, or not finite.
    """
    p50, p95 = np.percentile(_finite_vector("values", values), [50, 95])
    return {"p50": float(p50), "p95": float(p95)}


def mean_ranks(values: ArrayLike) -> NDArray[np.float64]:
    """Ranks (N,) float64 from 1, equal values sharing the mean of their ranks."""
    _, inverse, counts = np.unique(np.asarray(values), return_inverse=True, return_counts=True)
    last = np.cumsum(counts).astype(np.float64)
    ranks: NDArray[np.float64] = (last - (counts - 1) / 2)[inverse]
    return ranks


def _rank_correlation(left: NDArray[np.float64], right: NDArray[np.float64]) -> float:
    a, b = mean_ranks(left), mean_ranks(right)
    a, b = a - a.mean(), b - b.mean()
    norm = np.sqrt((a @ a) * (b @ b))
    return float(np.clip(a @ b / norm, -1, 1)) if norm > 0 else float("nan")


def _resampled_means(
    sums: NDArray[np.float64], counts: NDArray[np.float64], seed: int, num_resamples: int
) -> NDArray[np.float64]:
    """Means (R,) of R resamples of units, each unit a sum over `counts` values."""
    if num_resamples < 1:
        raise ValueError(
            f"bootstrap: num_resamples = {num_resamples}; allowed are 1 and more, 10 000 is usual"
        )
    rng = np.random.default_rng(seed)
    means = np.empty(num_resamples)
    block = max(1, _BLOCK_ELEMENTS // sums.size)
    for start in range(0, num_resamples, block):
        rows = min(block, num_resamples - start)
        pick = rng.integers(sums.size, size=(rows, sums.size))
        means[start : start + rows] = sums[pick].sum(axis=1) / counts[pick].sum(axis=1)
    return means


def _sums_by_group(
    values: NDArray[np.float64], groups: ArrayLike | None
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    if groups is None:
        return values, np.ones_like(values)
    labels = np.asarray(groups)
    if labels.shape != values.shape:
        raise ValueError(
            f"bootstrap: groups has shape {labels.shape}, the values {values.shape}; give one group label "
            "for each value"
        )
    names, inverse = np.unique(labels, return_inverse=True)
    if names.size < FEWEST_GROUPS:
        raise ValueError(
            f"bootstrap: {names.size} groups; resampling groups needs at least {FEWEST_GROUPS}, take "
            "`mean_over_runs` of their means"
        )
    return np.bincount(inverse, weights=values).astype(np.float64), np.bincount(inverse).astype(np.float64)


def _paired_vectors(first: ArrayLike, second: ArrayLike) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    left, right = _finite_vector("first", first), _finite_vector("second", second)
    if left.size != right.size:
        raise ValueError(
            f"first has {left.size} values and second {right.size}; pairs need equal lengths, "
            "give both results on the same episode seeds in the same order"
        )
    return left, right


def _finite_vector(name: str, values: ArrayLike) -> NDArray[np.float64]:
    vector = np.asarray(values, dtype=np.float64)
    if vector.ndim != 1 or vector.size == 0:
        raise ValueError(f"{name} has shape {vector.shape}; allowed is one dimension with at least 1 value")
    num_bad = int(np.count_nonzero(~np.isfinite(vector)))
    if num_bad:
        raise ValueError(
            f"{name}: {num_bad} of {vector.size} values are not finite; drop or repeat those episodes"
        )
    return vector


def _percentile_interval(value: float, resampled: NDArray[np.float64], confidence: float) -> Interval:
    _check_confidence(confidence)
    low, high = np.quantile(resampled, [0.5 - confidence / 2, 0.5 + confidence / 2])
    return Interval(value, float(low), float(high))


def _check_confidence(confidence: float) -> None:
    if not 0 < confidence < 1:
        raise ValueError(f"confidence = {confidence}; allowed is between 0 and 1, 0.95 is usual")
