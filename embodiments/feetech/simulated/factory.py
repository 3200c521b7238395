"""An STS3215's permanent registers as it comes and the constants of its electronics, each with its source."""

from __future__ import annotations

from embodiments.feetech.registers import EEPROM_END, MODEL_NUMBER_STS3215, register

# --- Sources ------------------------------------------------------------------------------------------------
# TABLE: Feetech "ST3215 memory register map", column "initial value".
# SHEET: Feetech STS3215-C018 (12 V) sheet: 30 kg cm, 45 rpm, stall 2.7 A.
# MEASURED: TheRobotStudio/SO-ARM100 issue 134, a user's bench: 1.5 Nm held 10 minutes warms a servo by 15 K.
FIRMWARE = (3, 10)  # a version LeRobot's users report; it only has to be equal on all motors
NOMINAL_V = 12.0  # SHEET
STALL_CURRENT_A = 2.7  # SHEET, at NOMINAL_V
IDLE_CURRENT_A = 0.03  # ours
NO_LOAD_STEPS_S = 3072.0  # SHEET: 45 rpm; 4096 steps a turn
WINDING_OHM = NOMINAL_V / STALL_CURRENT_A
THERMAL_K_PER_W = 2.2  # from MEASURED: 8 W for two time constants
THERMAL_TIME_S = 300.0  # ours, from the same
AMBIENT_C = 25.0
BROWN_OUT_V = 4.0  # TABLE: lowest allowed supply; ours: below it the electronics reset
SUPPLY_OHM = 0.1  # ours: cables and adapter
CURRENT_UNIT_A = 0.0065  # TABLE
ACCELERATION_UNIT = 100.0  # TABLE: steps per second squared
NOMINAL_P = 16.0  # LeRobot's setting, for which the arm's stiffness is given
NOMINAL_D = 32.0  # TABLE and LeRobot

DEFAULTS = {
    "Firmware_Major_Version": FIRMWARE[0],
    "Firmware_Minor_Version": FIRMWARE[1],
    "Model_Number": MODEL_NUMBER_STS3215,
    "ID": 1,
    "Return_Delay_Time": 250,  # LeRobot: motors arrive so; the TABLE says 0
    "Response_Status_Level": 1,
    "Max_Position_Limit": 4095,
    "Max_Temperature_Limit": 70,
    "Max_Voltage_Limit": 140,  # the 12 V variant; 80 on the 7.4 V one
    "Min_Voltage_Limit": 40,
    "Max_Torque_Limit": 1000,
    "Phase": 12,
    "Unloading_Condition": 44,
    "LED_Alarm_Condition": 47,
    "P_Coefficient": 32,
    "D_Coefficient": 32,
    "Minimum_Startup_Force": 16,
    "CW_Dead_Zone": 1,
    "CCW_Dead_Zone": 1,
    "Protection_Current": 500,
    "Angular_Resolution": 1,
    "Protective_Torque": 20,
    "Protection_Time": 200,
    "Overload_Torque": 80,
    "Velocity_closed_loop_P_proportional_coefficient": 10,
    "Over_Current_Protection_Time": 200,
    "Velocity_closed_loop_I_integral_coefficient": 10,
}


def eeprom_image(**values: int) -> bytearray:
    """(40,) bytes: the factory image with `values` by register name over it."""
    image = bytearray(EEPROM_END)
    for name, value in (DEFAULTS | values).items():
        entry = register(name)
        image[entry.address : entry.address + entry.size] = entry.encode(value)
    return image
