"""One simulated servo: memory rules, motion, and the protections that take its torque away."""

import itertools

import pytest

from embodiments.feetech.registers import register
from embodiments.feetech.simulated.factory import eeprom_image
from embodiments.feetech.simulated.motion import Profile
from embodiments.feetech.simulated.servo import HOLD, OLD_GOAL, SimulatedServo

DT = 0.004


def write(servo, name, value):
    entry = register(name)
    servo.write(entry.address, entry.encode(value))


def read(servo, name):
    entry = register(name)
    return entry.decode(int.from_bytes(servo.read(entry.address, entry.size), "little"))


def step(servo, seconds, position=2048.0, velocity=0.0, effort=0.0, volts=12.0):
    drive = None
    for _ in range(round(seconds / DT)):
        drive = servo.step(DT, position, velocity, effort, volts)
    return drive


@pytest.fixture
def servo():
    made = SimulatedServo(eeprom_image(ID=4))
    step(made, DT)
    return made


# -- memory
def test_it_is_an_sts3215(servo):
    assert servo.read(3, 2) == b"\x09\x03"
    assert read(servo, "Model_Number") == 777
    assert read(servo, "ID") == 4


def test_permanent_registers_survive_a_power_cycle_only_if_unlocked(servo):
    write(servo, "P_Coefficient", 16)
    write(servo, "Lock", 1)
    write(servo, "D_Coefficient", 7)
    assert (read(servo, "P_Coefficient"), read(servo, "D_Coefficient")) == (16, 7), "both act at once"
    servo.power_down()
    servo.power_up()
    assert (read(servo, "P_Coefficient"), read(servo, "D_Coefficient")) == (16, 32)
    assert read(servo, "Lock") == 0
    assert read(servo, "Torque_Enable") == 0


def test_torque_limit_comes_from_the_permanent_one_at_power_up(servo):
    write(servo, "Max_Torque_Limit", 500)
    assert read(servo, "Torque_Limit") == 1000
    servo.power_up()
    assert read(servo, "Torque_Limit") == 500


def test_what_is_read_only_stays(servo):
    servo.write(3, b"\x00\x00")
    servo.write(56, b"\x01\x02")
    assert read(servo, "Model_Number") == 777
    assert read(servo, "Present_Position") == 2048


def test_present_position_is_the_encoder_less_the_offset_within_a_turn(servo):
    write(servo, "Homing_Offset", -100)
    assert read(servo, "Present_Position") == 2148
    step(servo, DT, position=4090.0)
    assert read(servo, "Present_Position") == 94, "beyond a turn it begins again"
    write(servo, "Phase", 12 | 0x10)
    assert read(servo, "Present_Position") == 4190, "unless the feedback is set to many turns"


def test_centring_makes_here_the_middle(servo):
    step(servo, DT, position=3000.0)
    write(servo, "Torque_Enable", 128)
    assert read(servo, "Present_Position") == 2048
    assert read(servo, "Torque_Enable") == 0


# -- torque
@pytest.mark.parametrize(("behaviour", "goal"), [(HOLD, 1000), (OLD_GOAL, 2048)])
def test_both_ways_torque_may_come_on(behaviour, goal):
    servo = SimulatedServo(eeprom_image(), torque_on=behaviour)
    write(servo, "Goal_Position", 2048)
    step(servo, DT, position=1000.0)  # moved by hand
    write(servo, "Torque_Enable", 1)
    assert read(servo, "Goal_Position") == goal
    drive = step(servo, 3.0, position=1000.0)
    assert drive.on
    assert drive.target == pytest.approx(goal)


def test_a_goal_written_before_the_torque_is_kept_by_the_old_goal_servo():
    servo = SimulatedServo(eeprom_image(), torque_on=OLD_GOAL)
    step(servo, DT, position=1000.0)
    write(servo, "Goal_Position", 1000)
    write(servo, "Torque_Enable", 1)
    assert step(servo, 1.0, position=1000.0).target == pytest.approx(1000)


def test_switching_torque_on_again_changes_nothing(servo):
    write(servo, "Torque_Enable", 1)
    write(servo, "Goal_Position", 2500)
    write(servo, "Torque_Enable", 1)
    assert read(servo, "Goal_Position") == 2500


def test_goals_beyond_the_limits_are_not_followed(servo):
    write(servo, "Min_Position_Limit", 1000)
    write(servo, "Max_Position_Limit", 3000)
    write(servo, "Torque_Enable", 1)
    for goal, end in ((3983, 3000), (-225, 1000)):
        write(servo, "Goal_Position", goal)
        assert step(servo, 3.0).target == pytest.approx(end)
        assert read(servo, "Goal_Position") == goal, "the register says what was written"


def test_limits_of_torque_stiffness_and_supply_reach_the_joint(servo):
    write(servo, "Torque_Enable", 1)
    write(servo, "Torque_Limit", 300)
    write(servo, "P_Coefficient", 8)
    drive = step(servo, DT)
    assert (drive.limit, drive.stiffness) == (pytest.approx(0.3), 0.5)
    assert step(servo, DT, volts=6.0).limit == pytest.approx(0.15)


# -- motion
def test_a_profile_reaches_its_goal_within_speed_and_acceleration():
    profile, positions, speeds = Profile(), [0.0], [0.0]
    while profile.setpoint != 1000.0:
        profile.advance(1000.0, 900.0, 3000.0, DT)
        positions.append(profile.setpoint)
        speeds.append(profile.speed)
        assert len(speeds) < 1000
    assert positions == sorted(positions), "never beyond the goal, never backwards"
    assert max(speeds) == pytest.approx(900.0)
    changes = [abs(after - before) / DT for before, after in itertools.pairwise(speeds)]
    assert max(changes[:-1]) <= 3000.0 + 1e-6
    assert changes[-1] <= 2 * 3000.0, "the last step ends on the goal"
    # 0.3 s up, 0.3 s down, and 730 steps in between at 900 a second.
    assert len(speeds) * DT == pytest.approx(0.6 + (1000 - 270) / 900, abs=0.02)


def test_goal_velocity_and_acceleration_are_obeyed(servo):
    write(servo, "Acceleration", 254)
    write(servo, "Goal_Velocity", 500)
    write(servo, "Torque_Enable", 1)
    write(servo, "Goal_Position", 3048)
    drive = step(servo, 1.0)
    assert 380 < drive.target - 2048 <= 500
    assert read(servo, "Moving") == 1
    step(servo, 2.0, position=3048.0)
    assert read(servo, "Moving") == 0


def test_in_a_mode_that_is_not_simulated_it_stands_still(servo):
    write(servo, "Torque_Enable", 1)
    write(servo, "Operating_Mode", 1)
    write(servo, "Goal_Position", 3000)
    assert step(servo, 1.0).target == pytest.approx(2048)


# -- what is measured
def test_load_current_voltage_and_temperature(servo):
    write(servo, "Torque_Enable", 1)
    step(servo, 1.0, effort=-0.5, volts=11.4, velocity=-120.0)
    assert read(servo, "Present_Load") == -500
    assert read(servo, "Present_Voltage") == 114
    assert read(servo, "Present_Velocity") == -120
    assert read(servo, "Present_Current") == round((0.03 + 0.5 * 2.7) / 0.0065)
    assert read(servo, "Present_Temperature") == 25


def test_half_the_stall_torque_for_ten_minutes_warms_by_fifteen_kelvin(servo):
    write(servo, "Torque_Enable", 1)
    servo.memory[36] = 100  # no overload protection on the way
    for _ in range(6000):
        servo.step(0.1, 2048.0, 0.0, 0.5, 12.0)
    assert read(servo, "Present_Temperature") - 25 == pytest.approx(15, abs=3)


# -- protections
def test_overload_after_its_time_weakens_the_motor_until_torque_off(servo):
    write(servo, "Torque_Enable", 1)
    step(servo, 1.9, effort=0.9)
    assert servo.error == 0
    drive = step(servo, 0.2, effort=0.9)
    assert servo.error == 0x20
    assert drive.limit == pytest.approx(0.2)
    assert read(servo, "Status") == 0x20
    step(servo, 1.0, effort=0.0)
    assert servo.error == 0x20, "latched"
    write(servo, "Torque_Enable", 0)
    assert servo.error == 0


def test_a_load_that_pauses_does_not_count_up(servo):
    write(servo, "Torque_Enable", 1)
    for _ in range(5):
        step(servo, 1.5, effort=0.9)
        step(servo, DT, effort=0.1)
    assert servo.error == 0


def test_heat_takes_the_torque_and_gives_it_back(servo):
    write(servo, "Torque_Enable", 1)
    servo.protection.temperature_c = 71.0
    assert step(servo, DT).limit == 0.0
    assert servo.error == 0x04
    servo.protection.temperature_c = 64.0
    assert step(servo, DT).limit == 1.0
    assert servo.error == 0


@pytest.mark.parametrize(("volts", "bits"), [(3.98, None), (14.1, 1), (12.0, 0), (4.1, 0)])
def test_supply(servo, volts, bits):
    step(servo, DT, volts=volts)
    if bits is None:
        assert not servo.powered, "a brown-out"
    else:
        assert servo.error == bits


def test_a_brown_out_loses_what_is_volatile(servo):
    write(servo, "Torque_Enable", 1)
    write(servo, "Acceleration", 100)
    step(servo, 0.1, volts=3.0)
    assert not servo.torque
    step(servo, 0.1, volts=12.0)
    assert servo.powered
    assert (read(servo, "Torque_Enable"), read(servo, "Acceleration")) == (0, 0)


def test_overcurrent(servo):
    write(servo, "Protection_Current", 100)  # 0.65 A
    write(servo, "Torque_Enable", 1)
    drive = step(servo, 2.1, effort=0.4)
    assert servo.error == 0x08
    assert drive.limit == 0.0


def test_error_bits_are_forced_and_stay_within_the_byte(servo):
    servo.forced_errors = 0xFF
    assert servo.error == 0x7F


def test_an_unknown_behaviour():
    with pytest.raises(ValueError, match="torque_on is 'jump'; allowed is one of"):
        SimulatedServo(eeprom_image(), torque_on="jump")
