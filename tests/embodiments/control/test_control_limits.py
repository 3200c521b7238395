"""The limiter: what no target may make a goal do, and what a good target must not suffer."""

import math
import random

import pytest

from embodiments.control.limits import (
    ArmLimiter,
    Changes,
    JointLimiter,
    JointLimits,
    fastest_stoppable,
    outside_gate,
)

RATE = 100.0
DT = 1 / RATE
SMOOTHING = 0.04
WINDOW = 4
BODY = JointLimits("shoulder_lift", -97.0, 97.0, 90.0, 400.0, 1000.0)
SLACK = 1e-6  # rounding of second differences of 1e-13 degrees, divided by dt**2


def limiter(limits=BODY, start=0.0, rate=RATE):
    return JointLimiter(limits, 1 / rate, WINDOW, start)


class Watch:
    """Follows goals and keeps the largest velocity, acceleration and jerk seen."""

    def __init__(self, start, dt=DT):
        self.dt = dt
        self.position = start
        self.velocity = self.acceleration = 0.0
        self.worst = [0.0, 0.0, 0.0]

    def see(self, goal):
        velocity = (goal - self.position) / self.dt
        acceleration = (velocity - self.velocity) / self.dt
        jerk = (acceleration - self.acceleration) / self.dt
        self.position, self.velocity, self.acceleration = goal, velocity, acceleration
        now = (abs(velocity), abs(acceleration), abs(jerk))
        self.worst = [max(pair) for pair in zip(self.worst, now, strict=True)]


def wild_target(rng):
    """Targets as a broken policy may send them."""
    kind = rng.random()
    if kind < 0.05:
        return rng.choice((math.nan, math.inf, -math.inf, 1e6, -1e6, 1e300, -0.0))
    if kind < 0.5:
        return rng.uniform(-400, 400)
    return rng.choice((-97.0, 97.0, 96.999, -96.999, 0.0)) + rng.gauss(0, 1e-3)


@pytest.mark.parametrize("seed", range(4))
def test_no_target_breaks_a_limit(seed):
    """4 x 30,000 cycles of changing targets, feed-forward and caps."""
    rng = random.Random(seed)
    limits = JointLimits(
        "j", -97.0, 97.0, rng.uniform(20, 200), rng.uniform(100, 2000), rng.uniform(2000, 4000)
    )
    rate = rng.choice((10.0, 50.0, 100.0, 200.0))
    joint, watch = limiter(limits, 0.0, rate), Watch(0.0, 1 / rate)
    not_finite = counted = 0
    target, feed, cap = 0.0, 0.0, math.inf
    for _ in range(30_000):
        if rng.random() < 0.2:
            target = wild_target(rng)
            feed = rng.choice((0.0, 0.0, rng.uniform(-300, 300), math.nan if rng.random() < 0.1 else 0.0))
            cap = rng.choice((math.inf, math.inf, 30.0))
        bad = not (math.isfinite(target) and math.isfinite(feed))
        not_finite += bad
        if not bad:  # a stop uses its own acceleration; it is measured in the next test
            goal, changes = joint.step(target, feed, cap)
            watch.see(goal)
        else:
            _, changes = joint.step(target, feed, cap)
            joint.reset(joint.goal)
            watch.position, watch.velocity, watch.acceleration = joint.goal, 0.0, 0.0
        counted += changes.not_finite
        assert -97.0 <= joint.goal <= 97.0
    assert not_finite > 300
    assert counted == not_finite
    window_s = WINDOW / rate
    assert watch.worst[0] <= limits.max_velocity + SLACK
    assert watch.worst[1] <= limits.max_acceleration + SLACK
    assert watch.worst[2] <= 2 * limits.max_acceleration / window_s + SLACK / watch.dt
    assert watch.worst[0] > 0.9 * min(limits.max_velocity, 90)  # it did move


@pytest.mark.parametrize("seed", range(3))
def test_stops_at_any_moment_stay_inside_too(seed):
    rng = random.Random(seed)
    joint, watch = limiter(), Watch(0.0)
    stopping, target, stops = False, 0.0, 0
    for _ in range(30_000):
        if rng.random() < 0.03:
            stopping, target = rng.random() < 0.4, wild_target(rng)
            stops += stopping
        watch.see(joint.stop() if stopping else joint.step(target)[0])
        assert BODY.lower <= joint.goal <= BODY.upper
    assert stops > 200
    assert watch.worst[0] <= BODY.max_velocity + SLACK
    assert watch.worst[1] <= BODY.stop_acceleration + SLACK


def test_a_stop_from_full_speed_takes_less_than_150_ms():
    joint = limiter(start=-90.0)
    while joint.velocity < 89.9:
        joint.step(97.0)
    assert joint.position < 0
    cycles = 0
    while not joint.is_still:
        joint.stop()
        cycles += 1
    assert cycles * DT <= 0.15


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_a_target_that_is_no_number_stops_the_joint_and_is_counted(bad):
    joint = limiter()
    for _ in range(30):
        joint.step(50.0)
    speed = joint.velocity
    goal, changes = joint.step(bad)
    assert changes == Changes(not_finite=1)
    assert math.isfinite(goal)
    assert joint.velocity == pytest.approx(speed - BODY.stop_acceleration * DT)
    joint.step(50.0, target_velocity=bad)
    assert math.isfinite(joint.goal)


@pytest.mark.parametrize("target", [5.0, -60.0, 97.0, 400.0, -400.0])
def test_a_standing_target_is_reached_exactly_and_never_passed(target):
    joint = limiter(start=10.0)
    inside = min(max(target, -97.0), 97.0)
    goals = [joint.step(target)[0] for _ in range(400)]
    assert goals[-1] == pytest.approx(inside, abs=1e-9)
    assert joint.is_still
    low, high = min(10.0, inside), max(10.0, inside)
    assert all(low - 1e-9 <= goal <= high + 1e-9 for goal in goals)


def test_the_time_to_a_target_is_that_of_a_trapezoid():
    joint = limiter(start=-80.0)
    cycles = 0
    while not joint.is_still or cycles == 0:
        joint.step(80.0)
        cycles += 1
    ideal = 160.0 / 90.0 + 90.0 / 400.0 + SMOOTHING
    assert cycles * DT == pytest.approx(ideal, abs=0.03)


def test_feed_forward_follows_a_ramp_without_the_lag_of_a_stopping_distance():
    lag = {}
    for feed in (0.0, 60.0):
        joint = limiter(start=-60.0)
        for cycle in range(150):
            target = -60.0 + 60.0 * cycle * DT
            joint.step(target, feed)
        lag[feed] = target - joint.goal
    assert lag[0.0] > 4.0
    assert abs(lag[60.0]) < 60.0 * (SMOOTHING / 2 + DT)


def test_outside_its_limits_a_joint_only_comes_back():
    joint = limiter(start=103.0)
    before = 103.0
    for target in (200.0,) * 50 + (0.0,) * 50:
        goal, _ = joint.step(target)
        assert goal <= before + 1e-12
        before = goal
    assert before < 97.0
    joint = limiter(start=103.0)
    joint.stop()
    assert joint.goal == 103.0


def test_a_cap_slows_a_motion_under_way_within_the_acceleration():
    joint, watch = limiter(start=-90.0), Watch(-90.0)
    for _ in range(60):
        watch.see(joint.step(97.0)[0])
    assert joint.velocity == pytest.approx(90.0)
    for _ in range(40):
        watch.see(joint.step(97.0, max_velocity=30.0)[0])
    assert joint.velocity == pytest.approx(30.0)
    assert watch.worst[1] <= 400.0 + SLACK


def test_every_change_is_counted():
    joint = limiter()
    assert joint.step(400.0)[1] == Changes(position=1, velocity=1, acceleration=1)
    joint = limiter()
    assert joint.step(0.0)[1] == Changes()
    arm = ArmLimiter((BODY, BODY), RATE, SMOOTHING, (0.0, 0.0))
    arm.step((math.nan, 400.0))
    arm.step((400.0, math.nan))
    assert arm.changes.not_finite == 2
    assert arm.changes.position == 2


def test_fastest_stoppable_is_exact():
    rng = random.Random(1)
    for _ in range(2000):
        dt, acceleration, distance = rng.uniform(0.005, 0.1), rng.uniform(10, 2000), rng.uniform(1e-9, 300)
        velocity = fastest_stoppable(distance, acceleration, dt)
        travelled = 0.0
        while velocity > 0:
            travelled += velocity * dt
            velocity -= acceleration * dt
        assert travelled == pytest.approx(distance, rel=1e-9)
    assert fastest_stoppable(0.0, 400.0, DT) == 0.0
    assert fastest_stoppable(-1.0, 400.0, DT) == 0.0


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"lower": math.nan}, "every limit must be finite"),
        ({"max_velocity": math.inf}, "every limit must be finite"),
        ({"lower": 97.0}, "lower 97 is not below upper 97"),
        ({"max_velocity": 0.0}, "must be above 0"),
        ({"stop_acceleration": 399.0}, "stop_acceleration 399 is below"),
    ],
)
def test_limits_that_limit_nothing_are_refused(change, message):
    fields = {name: getattr(BODY, name) for name in BODY.__dataclass_fields__}
    with pytest.raises(ValueError, match=message):
        JointLimits(**fields | change)


def test_the_gate_names_the_joints_outside_and_no_number_is_inside():
    assert outside_gate((0.0, 6.0, math.nan), (1.0, 0.0, 0.0), (5.0, 5.0, 5.0)) == (1, 2)
