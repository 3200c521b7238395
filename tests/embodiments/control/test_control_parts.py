"""The parts of the control process that need no bus: watch, grip guard, deadlines, spec, journal."""

import dataclasses
import json
import random
import socket
import subprocess
import sys
import time
from types import SimpleNamespace

import pytest

from embodiments.control import journal as module
from embodiments.control.clock import Deadlines, Lateness, Waiter, claim_priority
from embodiments.control.grip import GripGuard
from embodiments.control.limits import JointLimits, arriving_together
from embodiments.control.link import Severity
from embodiments.control.pilot import Pilot
from embodiments.control.servo_arm import Health, Measurement, Sample
from embodiments.control.setpoints import NOW, Chunk
from embodiments.control.spec import ControlSpec, Thresholds
from embodiments.control.watch import ERROR_BITS, Watch
from firmware_bridge.safety import Cause, Code, Event, Motion, State

MS = 1000
CALIBRATION = {
    "lift": {"id": 1, "drive_mode": 0, "homing_offset": 0, "range_min": 1048, "range_max": 3048},
    "gripper": {"id": 2, "drive_mode": 0, "homing_offset": 0, "range_min": 2000, "range_max": 3500},
}


def spec(**settings):
    limits = tuple(JointLimits(name, 0.0, 90.0, 90.0, 400.0, 1000.0) for name in CALIBRATION)
    return ControlSpec("/dev/none", CALIBRATION, limits, (5.0, 30.0), **settings)


class Bench:
    """A watch fed with cycles of 10 ms."""

    def __init__(self):
        self.watch = Watch(spec(), spec().load_calibration())
        self.now = 0

    def cycle(self, lift, goal=None, load=0.0, errors=0, gripper=50.0):
        self.now += 10 * MS
        sample = None if lift is None else Sample(lift, load, errors)
        other = None if gripper is None else Sample(gripper, 0.0, 0)
        self.watch.see(Measurement((sample, other), self.now), self.now)
        mask = self.watch.judge(None if goal is None else (goal, 0.0), self.now)
        return {cause for cause in Cause if mask >> cause & 1}


def test_a_healthy_arm_has_no_conditions():
    bench, rng = Bench(), random.Random(1)
    for _ in range(500):
        at = rng.uniform(-3, 3)
        assert bench.cycle(at, at + rng.uniform(-4, 4), rng.uniform(0, 50)) == set()
    assert bench.watch.positions == (pytest.approx(at), 50.0)


def test_one_silent_motor_is_lost_after_40_ms_and_back_with_its_first_reply():
    bench = Bench()
    bench.cycle(0.0)
    found = [bench.cycle(None) for _ in range(6)]
    assert found[:4] == [set()] * 4
    assert found[4:] == [{Cause.MOTOR_LOST}] * 2
    assert "lift does not answer" in bench.watch.reasons[Cause.MOTOR_LOST]
    assert not bench.watch.blind
    assert bench.cycle(0.0) == set()
    assert bench.watch.lost_replies == 6


def test_a_silent_line_is_not_a_dead_motor():
    """A busy host hears nothing for a while: the arm stops meanwhile, and only 250 ms are a fault."""
    bench = Bench()
    bench.cycle(0.0)
    found = []
    for count in range(1, 30):
        found.append(bench.cycle(None, gripper=None))
        assert bench.watch.blind == (count >= 3)
        assert bench.watch.measured_us == 10 * MS  # the positions handed out do not get younger
    assert found[:25] == [set()] * 25
    assert found[25:] == [{Cause.BUS_LOST}] * 4
    assert bench.cycle(0.0) == set()
    assert not bench.watch.blind


def test_one_wrong_position_is_not_believed_and_not_a_fault():
    bench = Bench()
    bench.cycle(1.0)
    for wrong in (90.0, -70.0):
        assert bench.cycle(wrong) == set()
        assert bench.watch.positions[0] == 1.0
        assert bench.cycle(1.1) == set()
        assert bench.watch.positions[0] == 1.1
        bench.cycle(1.0)
    assert bench.watch.joints[0].implausible == 2


def test_a_jump_that_stays_is_a_fault_and_time_does_not_make_it_plausible():
    bench = Bench()
    bench.cycle(0.0)
    found = [bench.cycle(35.0) for _ in range(15)]
    assert found[:2] == [set()] * 2
    assert all(conditions == {Cause.ENCODER_JUMP} for conditions in found[2:])
    assert bench.watch.positions[0] == 0.0
    for _ in range(10):
        bench.cycle(35.0)
    assert bench.cycle(35.0) == set()  # twenty that agree: this is where the encoder is now
    assert bench.watch.positions[0] == 35.0


def test_an_encoder_that_jumps_about_is_never_believed():
    bench, rng = Bench(), random.Random(2)
    bench.cycle(0.0)
    jumps = [bench.cycle(rng.choice((40.0, 60.0, -50.0, 90.0))) for _ in range(300)]
    assert all(conditions == {Cause.ENCODER_JUMP} for conditions in jumps[3:])
    assert bench.watch.positions[0] == 0.0


@pytest.mark.parametrize(("bit", "cause", "text"), ERROR_BITS)
def test_an_error_bit_needs_two_replies_and_lasts_half_a_second(bit, cause, text):
    bench = Bench()
    assert bench.cycle(0.0, errors=bit) == set()
    assert bench.cycle(0.0) == set()
    assert bench.cycle(0.0, errors=bit) == set()
    assert bench.cycle(0.0, errors=bit) == {cause}
    assert bench.watch.reasons[cause] == f"lift {text}"
    found = [bench.cycle(0.0) for _ in range(60)]
    assert found[48] == {cause}
    assert found[51] == set()


def test_a_joint_that_does_not_follow():
    bench = Bench()
    found = [bench.cycle(0.0, goal=11.0) for _ in range(40)]
    assert found[:30] == [set()] * 30
    assert found[31] == {Cause.TRACKING}
    assert bench.cycle(0.0, goal=9.0) == set()
    assert bench.cycle(0.0, goal=None) == set()  # without torque nothing has to follow


def test_a_joint_that_pushes():
    bench = Bench()
    found = [bench.cycle(0.0, goal=6.0, load=61.0) for _ in range(40)]
    assert found[:30] == [set()] * 30
    assert found[31] == {Cause.STALL}
    assert all(bench.cycle(0.0, goal=6.0, load=59.0) == set() for _ in range(40))


def test_outside_the_calibrated_range():
    bench = Bench()
    bench.cycle(90.0, goal=90.0)
    assert bench.cycle(97.0, goal=97.0) == set()  # range is +-87.9
    assert bench.cycle(99.0, goal=99.0) == {Cause.LIMIT}


def test_supply_and_temperature():
    bench = Bench()
    bench.cycle(0.0)
    bench.watch.supply_window_v = (10.5, 13.0)
    bench.watch.see_health(Health(0, 9.9, 40))
    assert bench.cycle(0.0) == set()  # one reading proves nothing
    bench.watch.see_health(Health(1, 9.9, 40))
    assert bench.cycle(0.0) == {Cause.SUPPLY}
    for joint in (0, 1):
        bench.watch.see_health(Health(joint, 12.0, 61))
    assert bench.cycle(0.0) == set()
    assert bench.watch.slow
    bench.watch.see_health(Health(0, 12.0, 66))
    assert bench.cycle(0.0) == {Cause.OVERHEAT}
    assert "66 degrees Celsius" in bench.watch.reasons[Cause.OVERHEAT]


def test_a_gripper_that_holds_something_closes_no_further():
    guard, now = GripGuard(Thresholds()), 0
    for _ in range(20):
        now += 10 * MS
        assert guard.limit(0.0, 40.0, 45.0, now) == 0.0
    now += 10 * MS
    assert guard.limit(0.0, 40.0, 45.0, now) == 36.0
    assert guard.limit(10.0, 40.0, 20.0, now + 10 * MS) == 36.0  # the grip stays when the load falls
    assert guard.limit(60.0, 40.0, 20.0, now) == 60.0
    assert guard.limit(0.0, 60.0, 5.0, now) == 0.0  # nothing between the jaws: close
    assert guard.floor is None


def test_a_grip_that_is_too_hard_opens_until_the_motor_can_hold_it_and_never_lets_go():
    guard, now, held = GripGuard(Thresholds()), 0, 0.0
    for _ in range(200):
        now += 10 * MS
        held = guard.limit(0.0, 40.0, 12.0 * (40.0 - held), now)  # as hard as the goal lies behind the jaw
    assert 12.0 * (40.0 - held) == pytest.approx(Thresholds().hold_load_percent, abs=1.0)
    for _ in range(500):  # a load that no longer depends on the goal, as of something that swells
        now += 10 * MS
        held = guard.limit(0.0, 40.0, 45.0, now)
    assert held == 40.0


def test_a_gripper_that_lost_what_it_held_closes():
    guard, now = GripGuard(Thresholds()), 0
    for _ in range(30):
        now += 10 * MS
        guard.limit(0.0, 40.0, 45.0, now)
    floor = guard.floor
    assert guard.limit(0.0, floor + 2.0, 3.0, now + 10 * MS) == floor  # on its way
    assert guard.limit(0.0, floor + 0.2, 3.0, now + 20 * MS) == 0.0


class Machine:
    """What a pilot asks of the safety machine."""

    output = SimpleNamespace(motion=Motion.TRACK)

    def __init__(self, state=State.RUN, silent_us=0):
        self.state, self.silent_us, self.events = state, silent_us, []

    def age_us(self, clock):
        return self.silent_us

    def step(self, event, now_us):
        self.events.append(event)
        return Code.OK


@pytest.mark.parametrize(("silent_ms", "events"), [(20, [Event.SETPOINT_NEAR]), (130, [])])
def test_what_a_silent_host_left_behind_is_not_taken_up_again(silent_ms, events):
    bench, machine = Bench(), Machine(State.STALE, silent_ms * MS)
    bench.cycle(0.0)
    pilot = Pilot(spec(), bench.watch, machine, lambda text: None, lambda code, now: None)
    pilot.stand((0.0, 50.0))
    pilot.accept(Chunk(1, 0, 1000 * MS, NOW, 100 * MS, ((1.0, 50.0),) * 20), 0)
    pilot.feed(bench.now, 1)
    assert machine.events == events


def test_a_plan_goes_on_while_the_gripper_holds_something():
    """The gripper is asked to close ever further on something 50 wide, while the lift moves on for 2 s."""
    bench = Bench()
    pilot = Pilot(spec(), bench.watch, Machine(), lambda text: None, lambda code, now: None)
    pilot.stand((0.0, 55.0))
    actions = tuple((3.0 * k, 55.0 - 6.0 * k) for k in range(21))
    pilot.accept(Chunk(1, 0, MS * 1000, 0, 100 * MS, actions), 0)
    goal, cycles = (0.0, 55.0), 0
    while pilot.plan.buffered_us and cycles < 400:
        cycles += 1
        bench.now += 10 * MS
        jaw = max(goal[1], 50.0)
        samples = (Sample(goal[0], 0.0, 0), Sample(jaw, 12.0 * (jaw - goal[1]), 0))
        bench.watch.see(Measurement(samples, bench.now), bench.now)
        pilot.feed(bench.now, 1)
        goal = pilot.goal(bench.now)
    assert 200 <= cycles < 300
    assert goal[0] == pytest.approx(60.0, abs=2.0)


def test_deadlines_stay_on_their_grid_whatever_the_cycles_take():
    rng, clock = random.Random(3), 0
    deadlines = Deadlines(100.0, 0)
    passed = 0
    for _ in range(5000):
        clock = max(clock, deadlines.next_ns) + int(rng.expovariate(1 / 0.3e6))
        passed += deadlines.met(clock)
        assert deadlines.index == passed
        assert deadlines.next_ns == (passed + 1) * 10_000_000
        clock += rng.choice((1_000_000, 3_000_000, 3_000_000, 27_000_000))
    assert deadlines.missed > 1000
    assert clock // 10_000_000 - deadlines.index <= 3


def test_a_skipped_deadline_is_missed_and_its_whole_delay_is_late():
    deadlines = Deadlines(100.0, 0)
    assert deadlines.met(10_000_000) == 1
    assert deadlines.missed == 0
    assert deadlines.met(42_000_000) == 3
    assert deadlines.missed == 2
    assert deadlines.lateness.max_us == 22_000
    assert deadlines.met(56_000_000) == 1
    assert deadlines.missed == 3  # later than half a period


def test_quantiles_of_lateness():
    lateness = Lateness()
    assert lateness.quantile_us(0.5) == 0
    for value in range(1000):
        lateness.add(value)
    assert lateness.quantile_us(0.5) == pytest.approx(500, abs=10)
    assert lateness.quantile_us(0.99) == pytest.approx(990, abs=10)
    lateness.add(10_000_000)
    assert lateness.max_us == 10_000_000


def test_a_waiter_hears_before_its_deadline_and_ends_at_it():
    mine, other = socket.socketpair()
    heard, waiter = [], Waiter()
    waiter.listen(mine.fileno(), lambda: heard.append(mine.recv(10)))
    other.send(b"now")
    began = time.monotonic_ns()
    waiter.until(began + 30_000_000)
    assert heard == [b"now"]
    assert time.monotonic_ns() >= began + 30_000_000
    waiter.forget(mine.fileno())
    other.send(b"later")
    waiter.until(time.monotonic_ns() + 5_000_000)
    assert heard == [b"now"]
    mine.close()
    other.close()


def test_priority_is_claimed_in_order_and_said():
    assert claim_priority(0) == "plain"
    script = "from embodiments.control.clock import claim_priority; print(claim_priority(1))"
    said = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout
    assert said.strip() in ("SCHED_FIFO 1", "plain") or said.startswith("nice ")


def test_a_spec_survives_its_journey():
    made = spec(park=(1.0, 2.0), registers={"P_Coefficient": 16}, supply_window_v=(10.0, 13.0))
    assert ControlSpec.parse(made.dump()) == made
    assert ControlSpec.parse(spec().dump()) == spec()
    with pytest.raises(ValueError, match="Expecting"):
        ControlSpec.parse("{")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"rate_hz": 9.0}, "control rate 9 Hz"),
        ({"rate_hz": 201.0}, "control rate 201 Hz"),
        ({"gate": (5.0,)}, "gates for 1 joints"),
        ({"gate": (5.0, float("nan"))}, "gate is .* must be finite"),
        ({"park": (0.0,)}, "park has 1 joints"),
        ({"setpoint_ttl_us": 1}, "lives 1 us"),
        ({"limits": ()}, "limits are for"),
    ],
)
def test_a_spec_that_guards_nothing_is_refused(change, message):
    with pytest.raises(ValueError, match=message):
        dataclasses.replace(spec(), **change)


def test_an_unknown_register_is_refused():
    with pytest.raises(KeyError, match="P_Koefficient"):
        spec(registers={"P_Koefficient": 1})


def test_joints_arrive_together():
    speeds = arriving_together(20.0, (0.0, 0.0, 5.0), (40.0, -10.0, 5.0))
    assert speeds == (20.0, 5.0, 1.0)
    assert arriving_together(20.0, (1.0,), (1.0,)) == (20.0,)


def test_the_control_process_imports_nothing_heavy_and_quickly():
    script = (
        "import sys, embodiments.control.process\n"
        "assert not {'torch', 'lerobot', 'mujoco', 'numpy'} & set(sys.modules), 'heavy'\n"
        "print(len(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) < 250


def test_the_journal_is_json_and_bounded(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "MAX_BYTES", 2000)
    path = tmp_path / "log.jsonl"
    journal = module.Journal(str(path), 100.0)
    for number in range(1000):
        journal.note(Severity.INFO, "something", number=number)
    journal.close()
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    assert lines[0]["number"] == 0
    assert lines[-1]["text"] == "log full"
    assert path.stat().st_size < 3000
    nothing = module.Journal(None, 100.0)
    nothing.note(Severity.INFO, "nowhere")
    nothing.close()


def test_a_full_disk_ends_the_journal_and_nothing_else():
    journal = module.Journal("/dev/full", 100.0)
    for _ in range(3):
        journal.note(Severity.INFO, "something")
    assert "No space left" in journal.error
    journal.close()
