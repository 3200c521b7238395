"""Plans of chunks: joined where consumption is, interpolated, never a jump, never silently empty."""

import math
import random

import pytest

from embodiments.control.limits import JointLimiter, JointLimits
from embodiments.control.setpoints import NOW, Chunk, SetpointPlan, Supply, Verdict

MS = 1000
ACCELERATION = (400.0, 400.0)


def chunk(sequence, positions, start=NOW, period=100 * MS, sent=0, ttl=200 * MS):
    actions = tuple((float(p), -float(p)) for p in positions)
    return Chunk(sequence, sent, ttl, start, period, actions)


def plan(at=0.0):
    return SetpointPlan((at, -at))


def value(made):
    return made.sample(()).positions[0]


def test_setpoints_are_linear_between_actions_and_stand_at_the_end():
    made = plan()
    assert made.supply == Supply.EMPTY
    assert made.accept(chunk(0, (10, 20), start=0), 0) == Verdict.ACCEPTED
    seen = []
    for _ in range(12):
        seen.append(value(made))
        made.advance(10 * MS)
    assert seen[:11] == pytest.approx([10 + i for i in range(11)])
    assert made.supply == Supply.DRAINED
    assert value(made) == 20.0
    assert made.sample(ACCELERATION).positions == (20.0, -20.0)
    made.advance(1000 * MS)
    assert made.plan_us == 100 * MS  # nothing was consumed
    assert value(made) == 20.0


def test_a_stream_of_single_setpoints_is_no_staircase():
    made, last, worst = plan(), 0.0, 0.0
    for cycle in range(99):
        if cycle % 3 == 0:
            assert made.accept(chunk(cycle, (cycle,), period=30 * MS), 0) == Verdict.ACCEPTED
        made.advance(10 * MS)
        worst, last = max(worst, abs(value(made) - last)), value(made)
    assert last == pytest.approx(96.0)
    assert worst <= 1.0 + 1e-9


@pytest.mark.parametrize("latency_ms", [0, 30, 100, 250, 380])
def test_a_chunk_joins_where_consumption_is_whatever_the_inference_took(latency_ms):
    """Old and new chunk describe the same motion from the same observation: the join must not show."""
    motion = [10.0 * i for i in range(12)]
    made = plan()
    made.accept(chunk(0, motion, start=0), 0)
    made.advance(200 * MS)
    observed = made.plan_us
    made.advance(latency_ms * MS)
    before = value(made)
    assert made.accept(chunk(1, motion[2:], start=observed), 0) == Verdict.ACCEPTED
    assert value(made) == before
    for _ in range(20):
        made.advance(10 * MS)
        assert value(made) == pytest.approx(made.plan_us * 1e-4)


def test_a_queue_that_ran_dry_skips_nothing():
    """Inference took 700 ms of a 100 ms buffer: one action was consumed, so one is skipped, not seven."""
    made = plan()
    made.accept(chunk(0, (0, 10), start=0), 0)
    observed = made.plan_us
    for _ in range(70):
        made.advance(10 * MS)
    assert made.supply == Supply.DRAINED
    assert made.accept(chunk(1, [10 * i for i in range(8)], start=observed), 0) == Verdict.ACCEPTED
    assert made.plan_us == 100 * MS
    assert made.first() == (20.0, -20.0)
    assert made.buffered_us == 600 * MS


def test_a_join_starts_from_the_last_setpoint_even_if_the_new_chunk_is_elsewhere():
    rng = random.Random(2)
    made, last = plan(), 0.0
    steepest, joins = 0.0, 0
    for cycle in range(5000):
        if rng.random() < 0.1:
            actions = [rng.uniform(-50, 50) for _ in range(rng.randint(1, 6))]
            start = rng.choice((NOW, made.plan_us, max(0, made.plan_us - 150 * MS), made.plan_us + 40 * MS))
            joins += made.accept(chunk(cycle, actions, start=start), 0) == Verdict.ACCEPTED
            if start in (NOW, made.plan_us + 40 * MS):
                assert value(made) == pytest.approx(last)
        made.advance(MS)
        steepest = max(steepest, abs(value(made) - last))
        last = value(made)
        assert -50.0 <= value(made) <= 50.0
    assert joins > 300
    assert steepest <= 100.0


@pytest.mark.parametrize(
    ("bad", "verdict"),
    [
        (chunk(5, (1,), sent=0, ttl=99 * MS), Verdict.EXPIRED),
        (chunk(5, (1,), sent=101 * MS), Verdict.EXPIRED),  # from the future: another clock
        (chunk(5, (1, 2), start=0, period=10 * MS), Verdict.CONSUMED),
        (chunk(3, (1,)), Verdict.OLD),
        (chunk(5, (math.nan,)), Verdict.NOT_FINITE),
        (chunk(5, (1, math.inf)), Verdict.NOT_FINITE),
        (chunk(5, (1, -1.7e308)), Verdict.NOT_FINITE),
        (chunk(5, ()), Verdict.SHAPE),
        (chunk(5, range(513)), Verdict.SHAPE),
        (chunk(5, (1,), period=-1), Verdict.SHAPE),
        (chunk(5, (1,), period=1_000_001), Verdict.SHAPE),
        (chunk(5, (1,), start=-2), Verdict.SHAPE),
        (Chunk(5, 0, 200 * MS, NOW, 0, ((1.0,),)), Verdict.SHAPE),
        (Chunk(5, 0, 200 * MS, NOW, 0, ((1.0, 2.0), (1.0,))), Verdict.SHAPE),
    ],
)
def test_a_refused_chunk_leaves_the_plan_as_it_was_and_is_counted(bad, verdict):
    made = plan()
    made.accept(chunk(3, range(10), start=0), 0)
    made.advance(100 * MS)
    before = (value(made), made.end_us, made.sequence)
    assert made.accept(bad, 100 * MS) == verdict
    assert (value(made), made.end_us, made.sequence) == before
    assert made.verdicts[verdict] == 1
    assert sum(made.verdicts) == 2


def test_a_reset_forgets_the_actions_but_not_the_sequence():
    made = plan()
    made.accept(chunk(3, range(10), start=0), 0)
    made.reset((7.0, 7.0))
    assert made.supply == Supply.EMPTY
    assert made.sample(ACCELERATION) == ((7.0, 7.0), (0.0, 0.0))
    assert made.accept(chunk(3, (1,)), 0) == Verdict.OLD


def test_a_velocity_to_count_on_ends_a_stopping_time_before_the_plan_does():
    made = plan()
    made.accept(chunk(0, [6 * i for i in range(11)], start=0), 0)  # 60 units a second for a second
    while made.plan_us < 850 * MS:
        assert made.sample(ACCELERATION).velocities == pytest.approx((60.0, -60.0))
        made.advance(10 * MS)
    made.advance(10 * MS)
    assert made.sample(ACCELERATION).velocities == (0.0, 0.0)


@pytest.mark.parametrize("seed", range(5))
def test_following_random_plans_never_passes_what_was_asked(seed):
    """Plan and limiter together, 20,000 cycles: no goal beyond the actions given so far."""
    rng = random.Random(seed)
    limits = JointLimits("j", -97.0, 97.0, 90.0, 400.0, 1000.0)
    joint = JointLimiter(limits, 0.01, 4, 0.0)
    made = SetpointPlan((0.0,))
    top = bottom = 0.0
    recent = []
    for cycle in range(20_000):
        if rng.random() < 0.02:
            level = value(made)
            actions = tuple((level := level + rng.uniform(-7, 7),) for _ in range(rng.randint(1, 12)))
            if made.accept(Chunk(cycle, 0, MS, NOW, 100 * MS, actions), 0) == Verdict.ACCEPTED:
                recent = (recent + [a[0] for a in actions])[-40:]
        made.advance(10 * MS)
        point = made.sample((limits.max_acceleration,))
        goal, _ = joint.step(point.positions[0], point.velocities[0])
        top, bottom = max([top, *recent]), min([bottom, *recent])
        # A chunk replaced under way may turn the plan around: at most a stopping distance beyond.
        assert max(bottom - 10.2, -97.0) <= goal <= min(top + 10.2, 97.0)
    assert top - bottom > 20
