"""The safety machine: the rows of its table, its deadlines, and what no sequence of events may reach."""

import random

import pytest

from firmware_bridge.safety import (
    OUTPUTS,
    TIMEOUTS,
    TRANSITIONS,
    Cause,
    Clock,
    Code,
    Event,
    Guard,
    Limit,
    Motion,
    SafetyMachine,
    State,
    Torque,
    safety_table,
)

MS = 1000
ENERGISED = (State.HOLD, State.RUN, State.STALE, State.PARK)


def machine(*events, table=None):
    """A machine that has seen `events` at time 0."""
    made = SafetyMachine(table or safety_table())
    for event in events:
        assert made.step(event, 0) == Code.OK
    return made


READY = (Event.SELF_TEST_PASSED, Event.COMMIT)
HOLD = (*READY, Event.ARM)
RUN = (*HOLD, Event.SETPOINT_NEAR)


def stepped(arm, until_us, every_us=10 * MS, feed=()):
    """Tick from the machine's present time to `until_us`; `feed` events come with every tick."""
    now = 0
    while now < until_us:
        now += every_us
        arm.tick(now)
        for event in feed:
            arm.step(event, now)
    return now


@pytest.mark.parametrize(
    ("events", "state"), [((), State.BOOT), (READY, State.READY), (HOLD, State.HOLD), (RUN, State.RUN)]
)
def test_the_way_to_run(events, state):
    assert machine(*events).state == state


def test_torque_is_off_until_armed():
    seen = 0
    for events in (READY[:0], READY[:1], READY):
        seen += 1
        assert machine(*events).output == (Torque.OFF, Motion.NONE)
    assert seen == 3
    assert machine(*HOLD).output == (Torque.ON, Motion.STAND)


def test_a_far_first_setpoint_is_refused_and_a_far_later_one_is_not():
    arm = machine(*HOLD)
    assert arm.step(Event.SETPOINT_FAR, 0) == Code.GATE
    assert arm.state == State.HOLD
    arm = machine(*RUN)
    assert arm.step(Event.SETPOINT_FAR, 0) == Code.OK
    assert arm.state == State.RUN


@pytest.mark.parametrize("ttl_ms", [20, 100, 255])
def test_setpoints_run_out_exactly_at_their_time_to_live(ttl_ms):
    arm = machine(*RUN, table=safety_table(setpoint_ttl_us=ttl_ms * MS))
    arm.step(Event.FRAME, 15 * MS)
    arm.tick(ttl_ms * MS - 1)
    assert arm.state == State.RUN
    arm.tick(ttl_ms * MS)
    assert arm.state == State.STALE
    assert arm.output == (Torque.ON, Motion.STOP)


def test_a_refused_setpoint_keeps_nothing_alive():
    arm = machine(*RUN)
    arm.tick(100 * MS)
    assert arm.state == State.STALE
    assert arm.step(Event.SETPOINT_FAR, 120 * MS) == Code.GATE
    assert arm.age_us(Clock.SETPOINT) == 120 * MS


def test_stale_resumes_alone_only_within_a_second():
    for stale_ms, code, state in ((999, Code.OK, State.RUN), (1000, Code.NEEDS_ARM, State.STALE)):
        arm = machine(*RUN)
        now = stepped(arm, 100 * MS, feed=(Event.FRAME,))
        assert arm.state == State.STALE
        for _ in range(stale_ms // 100):
            now += 100 * MS
            arm.step(Event.FRAME, now)
        now = (100 + stale_ms) * MS
        arm.step(Event.FRAME, now)
        assert arm.step(Event.SETPOINT_NEAR, now) == code
        assert arm.state == state
    assert arm.step(Event.ARM, now) == Code.OK
    assert arm.state == State.HOLD


@pytest.mark.parametrize("events", [HOLD, RUN])
def test_a_silent_host_is_a_fault_after_250_ms(events):
    arm = machine(*events)
    stepped(arm, 240 * MS)
    assert arm.state in (State.HOLD, State.STALE)
    arm.tick(250 * MS)
    assert arm.state == State.FAULT
    assert arm.cause == Cause.HEARTBEAT
    assert arm.output == (Torque.REDUCED, Motion.STOP)


def test_a_silent_host_parks_the_arm_and_lets_go_but_stays_latched():
    arm = machine(*RUN)
    arm.tick(250 * MS)
    arm.tick(5_249 * MS)
    assert arm.state == State.FAULT
    arm.tick(5_250 * MS)
    assert arm.state == State.PARK
    assert arm.step(Event.PARKED, 6_000 * MS) == Code.OK
    assert arm.state == State.LIMP
    assert arm.output.torque == Torque.RAMP
    arm.tick(7_500 * MS)
    assert arm.state == State.SAFE
    assert arm.step(Event.COMMIT, 7_600 * MS) == Code.OK
    assert arm.step(Event.ARM, 7_600 * MS) == Code.LATCHED
    assert arm.step(Event.CLEAR, 7_600 * MS) == Code.CAUSE_PRESENT
    arm.step(Event.FRAME, 7_700 * MS)
    assert arm.step(Event.CLEAR, 7_700 * MS) == Code.OK
    assert arm.step(Event.ARM, 7_700 * MS) == Code.OK


@pytest.mark.parametrize("why_not", ["disabled", "another condition", "host is back"])
def test_a_silent_host_does_not_park(why_not):
    arm = machine(*RUN, table=safety_table(park_after_heartbeat=why_not != "disabled"))
    arm.tick(250 * MS)
    if why_not == "another condition":
        arm.step(Event.RAISE, 260 * MS, Cause.BUS_LOST)
    if why_not == "host is back":
        arm.step(Event.FRAME, 260 * MS)
    arm.tick(60_000 * MS)
    assert arm.state == State.FAULT


@pytest.mark.parametrize("cause", [c for c in Cause if c not in (Cause.NONE, Cause.HEARTBEAT)])
@pytest.mark.parametrize("state", ENERGISED)
def test_every_condition_latches_and_only_clear_after_it_is_gone_ends_it(state, cause):
    ways = {State.HOLD: HOLD, State.RUN: RUN, State.PARK: (*HOLD, Event.HALT_PARK)}
    arm = machine(*ways.get(state, RUN))
    if state == State.STALE:
        arm.tick(100 * MS)
    assert arm.state == state
    now = 101 * MS
    assert arm.step(Event.RAISE, now, cause) == Code.OK
    assert (arm.state, arm.cause) == (State.FAULT, cause)
    assert arm.step(Event.SETPOINT_NEAR, now) == Code.WRONG_STATE
    assert arm.step(Event.ARM, now) == Code.WRONG_STATE
    assert arm.step(Event.CLEAR, now) == Code.CAUSE_PRESENT
    assert arm.step(Event.LOWER, now, cause) == Code.OK
    assert arm.state == State.FAULT
    assert arm.step(Event.CLEAR, now) == Code.OK
    assert arm.state == State.LIMP
    arm.tick(now + 1_500 * MS)
    assert arm.state == State.SAFE


def test_the_first_cause_is_the_one_that_is_reported():
    arm = machine(*RUN)
    arm.step(Event.RAISE, 0, Cause.OVERLOAD)
    arm.step(Event.RAISE, 0, Cause.TRACKING)
    assert arm.cause == Cause.OVERLOAD
    assert arm.conditions == (1 << Cause.OVERLOAD) | (1 << Cause.TRACKING)


def test_a_condition_before_arming_refuses_arming():
    arm = machine(*READY)
    arm.step(Event.RAISE, 0, Cause.SUPPLY)
    assert (arm.state, arm.cause) == (State.READY, Cause.NONE)
    assert arm.step(Event.ARM, 0) == Code.CAUSE_PRESENT
    arm.step(Event.LOWER, 0, Cause.SUPPLY)
    assert arm.step(Event.ARM, 0) == Code.OK


@pytest.mark.parametrize("state", list(State))
def test_an_emergency_stop_is_heard_in_every_state(state):
    arm = SafetyMachine(safety_table())
    arm.state = state
    assert arm.step(Event.ESTOP, 0, Cause.ESTOP_INPUT) == Code.OK
    assert arm.state == State.ESTOP
    for _ in range(1000):
        arm.step(Event.RAISE, 0, Cause.ESTOP_INPUT)  # the button is still pressed
        assert arm.step(Event.CLEAR, 0) == Code.CAUSE_PRESENT


@pytest.mark.parametrize(("category", "torque"), [(0, Torque.OFF), (1, Torque.ON)])
def test_an_emergency_stop_stops_and_then_lets_go(category, torque):
    arm = machine(*RUN, table=safety_table(estop_category=category))
    arm.step(Event.ESTOP, 10 * MS, Cause.ESTOP_HOST)
    assert arm.output.torque == torque
    arm.tick(159 * MS)
    assert arm.output.torque == torque
    arm.tick(160 * MS)
    assert arm.output == (Torque.OFF, Motion.NONE)


def test_parking_that_does_not_arrive_is_a_fault():
    arm = machine(*HOLD, Event.HALT_PARK)
    arm.tick(60_000 * MS)
    assert (arm.state, arm.cause) == (State.FAULT, Cause.PARK_STUCK)
    assert arm.step(Event.HALT_LIMP, 60_001 * MS) == Code.OK
    arm.tick(62_000 * MS)
    assert arm.step(Event.CLEAR, 62_000 * MS) == Code.OK


def test_time_wraps_and_a_clock_that_runs_backwards_stops_the_arm():
    start = 2**32 - 50 * MS
    arm = SafetyMachine(safety_table(), start)
    for event in RUN:
        arm.step(event, start)
    arm.tick(start + 99 * MS)
    assert arm.state == State.RUN
    arm.tick(start + 100 * MS)
    assert arm.state == State.STALE
    arm = machine(*RUN)
    arm.step(Event.SETPOINT_NEAR, 50 * MS)
    arm.tick(49 * MS)
    assert arm.state == State.FAULT


def test_an_old_stale_never_becomes_young_again():
    arm = machine(*RUN, table=safety_table())
    now = 100 * MS
    arm.step(Event.FRAME, now)
    arm.tick(now)
    for _ in range(3 * 2**32 // 240_000):  # past three wraps of the counter
        now += 240_000
        arm.step(Event.FRAME, now)
    assert arm.state == State.STALE
    assert arm.step(Event.SETPOINT_NEAR, now) == Code.NEEDS_ARM


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"setpoint_ttl_us": 19_999}, "lives 19999 us"),
        ({"setpoint_ttl_us": 255_001}, "lives 255001 us"),
        ({"frame_timeout_us": 99_999}, "silent for 99999 us"),
        ({"estop_category": 2}, "category 2"),
    ],
)
def test_a_table_outside_its_windows_is_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        safety_table(**arguments)


def test_an_event_that_needs_a_cause_says_so():
    with pytest.raises(ValueError, match="RAISE needs a cause"):
        machine(*RUN).step(Event.RAISE, 0)


def test_the_table_is_plain_integers_and_complete():
    rows = [*TRANSITIONS, *TIMEOUTS, *OUTPUTS, safety_table().limits_us]
    assert len(rows) > 80
    assert all(isinstance(number, int) for row in rows for number in row)
    assert len(OUTPUTS) == len(State)
    assert len(safety_table().limits_us) == len(Limit)
    for state in State:
        for event in (Event.ESTOP, Event.FRAME, Event.RAISE, Event.LOWER):
            assert any(row[:2] == (state, event) for row in TRANSITIONS), (state, event)
    to_run = {(row.source, row.event) for row in TRANSITIONS if State.RUN == row.target != row.source}
    assert to_run == {(State.HOLD, Event.SETPOINT_NEAR), (State.STALE, Event.SETPOINT_NEAR)}
    into_hold = {row.source for row in TRANSITIONS if row.target == State.HOLD}
    assert into_hold == {State.READY, State.HOLD, State.RUN, State.STALE, State.PARK}
    assert all(row.guard != Guard.NONE for row in TRANSITIONS if row.event in (Event.CLEAR, Event.ARM))


def test_no_sequence_of_events_breaks_what_the_machine_promises():
    """200,000 random events at random times, against the promises written out independently."""
    rng = random.Random(4)
    events, now = 0, 0
    visited = set()
    while events < 200_000:
        table = safety_table(
            setpoint_ttl_us=rng.choice((20, 100, 255)) * MS, park_after_heartbeat=rng.random() < 0.5
        )
        arm = SafetyMachine(table, now)
        energised_by_arm = False
        for _ in range(400):
            events += 1
            before, latched = arm.state, arm.cause
            now += int(rng.expovariate(1 / rng.choice((2, 30, 400, 4000))) * MS)
            event = rng.choices(list(Event), weights=[3, 3, 6, 12, 4, 12, 1, 1, 1, 1, 1, 1, 4, 1, 2])[0]
            needs_cause = event in (Event.RAISE, Event.LOWER, Event.ESTOP)
            cause = rng.choice(list(Cause)[1:]) if needs_cause else Cause.NONE
            arm.tick(now)
            conditions = arm.conditions
            ticked = arm.state
            code = arm.step(event, now, cause)
            visited.add(arm.state)
            if event == Event.ARM and code == Code.OK:
                assert latched == Cause.NONE
                assert conditions == 0
                energised_by_arm = True
            if arm.state in ENERGISED:
                assert energised_by_arm
            if arm.state in (State.SAFE, State.READY, State.BOOT):
                assert arm.output == (Torque.OFF, Motion.NONE)
                energised_by_arm = False
            if arm.state == State.RUN:
                assert arm.cause == Cause.NONE
                assert arm.age_us(Clock.SETPOINT) < table.limits_us[Limit.SETPOINT_TTL]
                assert arm.age_us(Clock.FRAME) < table.limits_us[Limit.FRAME_TIMEOUT]
            if before in (State.FAULT, State.ESTOP):
                assert arm.state not in (State.RUN, State.HOLD, State.STALE)
            if event == Event.ESTOP:
                assert arm.state == State.ESTOP
            if latched != Cause.NONE and arm.cause != latched:
                assert event == Event.CLEAR
                assert code == Code.OK
                assert conditions == 0
            if code != Code.OK:
                assert arm.state == ticked
    assert visited == set(State)
