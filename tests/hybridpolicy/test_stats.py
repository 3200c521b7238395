"""Known values, properties and refusals of hybridpolicy.stats."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hybridpolicy.stats import (
    Interval,
    bootstrap_mean,
    mean_over_runs,
    mean_ranks,
    p50_p95,
    paired_bootstrap,
    paired_rates,
    spearman,
    wilson_interval,
)

FINITE = st.floats(-1e3, 1e3, allow_subnormal=False)


@pytest.mark.parametrize(
    ("successes", "episodes", "low", "high"),
    [  # Newcombe 1998, table I, method 3 (Wilson without continuity correction)
        (81, 263, 0.2553, 0.3662),
        (15, 148, 0.0624, 0.1605),
        (0, 20, 0.0, 0.1611),
        (1, 29, 0.0061, 0.1718),
    ],
)
def test_wilson_matches_published_table(successes: int, episodes: int, low: float, high: float) -> None:
    interval = wilson_interval(successes, episodes)
    assert interval.low == pytest.approx(low, abs=5e-5)
    assert interval.high == pytest.approx(high, abs=5e-5)


@given(st.integers(1, 5000).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n))))
def test_wilson_is_ordered_inside_unit_and_mirrored(case: tuple[int, int]) -> None:
    successes, episodes = case
    interval = wilson_interval(successes, episodes)
    mirrored = wilson_interval(episodes - successes, episodes)
    assert 0 <= interval.low <= interval.value <= interval.high <= 1
    assert interval.low < interval.high
    assert interval.low == pytest.approx(1 - mirrored.high, abs=1e-12)


@given(st.integers(1, 200), st.integers(2, 20))
def test_wilson_narrows_with_more_episodes(episodes: int, factor: int) -> None:
    few, many = (
        wilson_interval(episodes // 2, episodes),
        wilson_interval(episodes // 2 * factor, episodes * factor),
    )
    assert many.high - many.low < few.high - few.low


def test_wilson_covers_at_its_confidence() -> None:
    rng = np.random.default_rng(1)
    hits = [
        interval.low <= 0.9 <= interval.high
        for interval in (wilson_interval(int(rng.binomial(96, 0.9)), 96) for _ in range(2000))
    ]
    assert 0.92 <= np.mean(hits) <= 0.98


@pytest.mark.parametrize(
    ("successes", "episodes", "match"),
    [(0, 0, "episodes = 0"), (7, 6, "successes = 7"), (-1, 6, "successes = -1")],
)
def test_wilson_refuses(successes: int, episodes: int, match: str) -> None:
    with pytest.raises(ValueError, match=match):
        wilson_interval(successes, episodes)


def test_confidence_outside_unit_is_refused() -> None:
    with pytest.raises(ValueError, match=r"confidence = 95"):
        wilson_interval(1, 2, confidence=95)


def test_bootstrap_mean_matches_normal_theory() -> None:
    values = np.random.default_rng(0).normal(3.0, 2.0, size=400)
    interval = bootstrap_mean(values)
    half = 1.96 * values.std() / 20
    assert interval.value == values.mean()
    assert interval.low == pytest.approx(values.mean() - half, abs=0.02)
    assert interval.high == pytest.approx(values.mean() + half, abs=0.02)


@settings(max_examples=25)
@given(st.lists(FINITE, min_size=1, max_size=30), FINITE)
def test_bootstrap_mean_stays_in_range_and_follows_a_shift(values: list[float], shift: float) -> None:
    interval = bootstrap_mean(values, num_resamples=200)
    assert min(values) - 1e-9 <= interval.low <= interval.high <= max(values) + 1e-9
    shifted = bootstrap_mean(np.asarray(values) + shift, num_resamples=200)
    assert shifted.low == pytest.approx(interval.low + shift, abs=1e-6)


def test_bootstrap_is_deterministic_and_blocks_do_not_change_the_estimate(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    values = np.random.default_rng(2).normal(size=50)
    whole = bootstrap_mean(values)
    assert bootstrap_mean(values) == whole
    assert bootstrap_mean(values, seed=1) != whole
    monkeypatch.setattr("hybridpolicy.stats._BLOCK_ELEMENTS", 700)
    assert bootstrap_mean(values).low == pytest.approx(whole.low, abs=0.02)


def test_pairing_removes_what_both_policies_share() -> None:
    rng = np.random.default_rng(3)
    easy = rng.random(200) < 0.5  # half of the resets are easy for both
    first, second = easy.astype(float), easy.astype(float)
    second[:10] = 0  # the second policy fails ten more
    first[:10] = 1
    paired = paired_bootstrap(first, second)
    assert paired.value == pytest.approx(0.05)
    assert paired.low > 0
    assert paired_bootstrap(first, rng.permutation(second)).low < 0


@pytest.mark.parametrize(
    ("table", "low", "high"),
    [  # both, only the first, only the second, neither; Newcombe 1998, paired data, table III, method 10
        ((36, 12, 2, 0), 0.0569, 0.3404),
        ((20, 12, 2, 16), 0.0562, 0.3292),
        ((59, 0, 1, 0), -0.0886, 0.0450),
        ((24, 0, 0, 0), -0.1380, 0.1380),  # Wilson's of 24 of 24
    ],
)
def test_paired_rates_have_newcombes_interval(table: tuple[int, ...], low: float, high: float) -> None:
    first = np.repeat([1, 1, 0, 0], table)
    second = np.repeat([1, 0, 1, 0], table)
    found = paired_rates(first, second)
    assert found.value == pytest.approx((table[1] - table[2]) / sum(table))
    assert (found.low, found.high) == pytest.approx((low, high), abs=1e-4)
    with pytest.raises(ValueError, match="successes are 0 or 1"):
        paired_rates(first * 0.5, second)


@settings(max_examples=25)
@given(st.lists(st.tuples(st.booleans(), st.booleans()), min_size=1, max_size=40))
def test_paired_rates_are_antisymmetric_and_never_certain(pairs: list[tuple[bool, bool]]) -> None:
    first, second = np.asarray(pairs, dtype=float).T
    forward, backward = paired_rates(first, second), paired_rates(second, first)
    assert forward.value == pytest.approx(-backward.value)
    assert (forward.low, forward.high) == pytest.approx((-backward.high, -backward.low))
    assert -1 <= forward.low <= forward.value <= forward.high <= 1
    assert forward.high - forward.low > 0.05


@settings(max_examples=25)
@given(st.lists(st.tuples(st.booleans(), st.booleans()), min_size=1, max_size=40))
def test_paired_difference_is_antisymmetric(pairs: list[tuple[bool, bool]]) -> None:
    first, second = np.asarray(pairs, dtype=float).T
    forward = paired_bootstrap(first, second, num_resamples=200)
    backward = paired_bootstrap(second, first, num_resamples=200)
    assert forward.value == pytest.approx(-backward.value)
    assert forward.low == pytest.approx(-backward.high, abs=1e-9)
    assert -1 <= forward.low <= forward.high <= 1


def test_groups_widen_the_interval_when_runs_differ() -> None:
    by_run = np.repeat([0.0, 0.2, 0.4] * 3, 60)
    first = (np.tile(np.arange(60), 9) / 60 < by_run + 0.5).astype(float)
    second = (np.tile(np.arange(60), 9) / 60 < 0.5).astype(float)
    episodes = paired_bootstrap(first, second)
    runs = paired_bootstrap(first, second, groups=np.repeat(np.arange(9), 60))
    assert runs.value == episodes.value == pytest.approx(0.2)
    assert runs.high - runs.low > 1.5 * (episodes.high - episodes.low)
    assert runs == bootstrap_mean(first - second, groups=np.repeat(np.arange(9), 60))


def test_few_runs_have_the_interval_of_students_t() -> None:
    interval = mean_over_runs([-0.052, -0.083, -0.260])
    assert interval.value == pytest.approx(-0.1317, abs=1e-4)
    assert (interval.low, interval.high) == pytest.approx((-0.4107, 0.1474), abs=1e-3)
    assert mean_over_runs([1.0, 1.0]) == Interval(1.0, 1.0, 1.0)
    rng = np.random.default_rng(0)
    inside = [(i := mean_over_runs(rng.normal(size=3))).low < 0 < i.high for _ in range(2000)]
    assert np.mean(inside) == pytest.approx(0.95, abs=0.015)
    with pytest.raises(ValueError, match="1 run says nothing of the next"):
        mean_over_runs([0.5])


@pytest.mark.parametrize(
    ("first", "second", "groups", "match"),
    [
        ([1, 0], [1], None, "first has 2 values and second 1"),
        ([], [], None, r"first has shape \(0,\)"),
        ([1, float("nan")], [1, 0], None, "first: 1 of 2 values are not finite"),
        ([1, 0], [0, 0], [5, 6], "2 groups; resampling groups needs at least 8, take `mean_over_runs`"),
        ([1, 0], [0, 0], [5], r"groups has shape \(1,\)"),
    ],
)
def test_paired_bootstrap_refuses(
    first: list[float], second: list[float], groups: list[int] | None, match: str
) -> None:
    with pytest.raises(ValueError, match=match):
        paired_bootstrap(first, second, groups=groups)


def test_ranks_share_ties() -> None:
    np.testing.assert_array_equal(mean_ranks([10, 30, 20, 20]), [1, 4, 2.5, 2.5])


def test_spearman_known_value() -> None:
    iq = [
        106,
        100,
        86,
        101,
        99,
        103,
        97,
        113,
        112,
        110,
    ]  # the worked example of Spearman's coefficient, −29/165
    tv_hours = [7, 27, 2, 50, 28, 29, 20, 12, 6, 17]
    interval = spearman(iq, tv_hours)
    assert interval.value == pytest.approx(-29 / 165, abs=1e-12)
    assert -1 <= interval.low < interval.value < interval.high <= 1


def test_spearman_with_ties() -> None:
    assert spearman([1, 2, 2, 3], [1, 3, 2, 3]).value == pytest.approx(5 / 6)


@settings(max_examples=25)
@given(
    st.lists(st.integers(-1000, 1000), min_size=3, max_size=20, unique=True),
    st.randoms(use_true_random=False),
)
def test_spearman_ignores_monotone_maps_and_flips_sign(values: list[int], random: object) -> None:
    other = sorted(values, key=lambda _: random.random())  # type: ignore[attr-defined]
    value = spearman(values, other, num_resamples=20).value
    assert spearman(np.asarray(values) ** 3.0, other, num_resamples=20).value == pytest.approx(value)
    assert spearman(values, -np.asarray(other), num_resamples=20).value == pytest.approx(-value)


@pytest.mark.parametrize(
    ("first", "second", "match"),
    [
        ([1, 2], [2, 1], "2 pairs"),
        ([1, 1, 1], [1, 2, 3], "first is constant at 1"),
        ([1, 2, 3], [4, 4, 4], "second is constant at 4"),
    ],
)
def test_spearman_refuses(first: list[float], second: list[float], match: str) -> None:
    with pytest.raises(ValueError, match=match):
        spearman(first, second)


def test_p50_p95() -> None:
    assert p50_p95(range(101)) == {"p50": 50.0, "p95": 95.0}
    with pytest.raises(ValueError, match=r"values has shape \(0,\)"):
        p50_p95([])
