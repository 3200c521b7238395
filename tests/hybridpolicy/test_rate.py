"""The rate watch: warns once, only of another rate, only where a real robot is driven."""

import logging
import sys

import pytest

from hybridpolicy.rate import NUM_INTERVALS, RateWatch


@pytest.fixture
def ticks(monkeypatch, caplog):
    """(asked_hz, trained_hz) → messages after three episodes of a minute's pause between them."""

    def run(asked_hz, trained_hz, rollout=True, stalls=0):
        if rollout:
            monkeypatch.setitem(sys.modules, "lerobot.rollout", sys)
        else:
            monkeypatch.delitem(sys.modules, "lerobot.rollout", raising=False)
        now = [0.0]
        watch = RateWatch(clock=lambda: now[0])
        with caplog.at_level(logging.WARNING):
            for _ in range(3):
                watch.restart()
                for index in range(2 * NUM_INTERVALS):
                    watch.tick(trained_hz)
                    now[0] += 1 / asked_hz + (0.5 if index < stalls else 0.0)
                now[0] += 60.0
        return [record.getMessage() for record in caplog.records]

    return run


def test_a_policy_that_runs_too_fast_says_so_once(ticks):
    (message,) = ticks(30.0, 10.0)
    assert "asked for at 30.0 Hz and the policy was trained at 10 Hz" in message
    assert "3.0 times as fast; give --fps=10" in message


def test_a_slow_loop_is_told_too(ticks):
    (message,) = ticks(4.0, 10.0)
    assert "0.4 times as fast" in message


@pytest.mark.parametrize("given", [{"asked_hz": 10.4}, {"asked_hz": 9.0}, {"asked_hz": 10.0, "stalls": 5}])
def test_the_trained_rate_passes_also_with_a_few_stalls(ticks, given):
    assert ticks(trained_hz=10.0, **given) == []


def test_simulators_and_policies_without_a_rate_are_left_alone(ticks):
    assert ticks(300.0, 10.0, rollout=False) == []
    assert ticks(30.0, None) == []
