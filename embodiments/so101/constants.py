"""SO-101 numbers, each with its source.

Frame: x forward, y left, z up, origin at the base frame of the public model, table top at z = 0.
Joint signs and zeros are those of the public model `so101_new_calib`, in which zero is the middle of each
joint's range: LeRobot's convention for a calibrated follower in degrees, too.
"""

from __future__ import annotations

from embodiments.spec import CameraSpec, EmbodimentSpec, JointSpec, Sourced

# --- Sources ------------------------------------------------------------------------------------------------
PUBLIC_MODEL = (
    "TheRobotStudio/SO-ARM100, Simulation/SO101/so101_new_calib.xml, joint frames evaluated at zero"
)
JOINT_PROPERTIES = "TheRobotStudio/SO-ARM100, Simulation/SO101/joints_properties.xml, class sts3215"
SERVO_SHEET = (
    "Feetech, published no-load speed of an STS3215: 0.222 s per 60 degrees (45 rpm); not measured by us"
)
LEROBOT_CONFIG = (
    "LeRobot 0.6.1, robots/so_follower: gripper in 0..100 of the recorded sweep, others in degrees"
)
OUR_LIMIT = "ours: a cautious default below what the servo can do, for an arm beside a person"

# --- Joints in LeRobot order ----------------------------------------------------------------------------
MOTORS = ("shoulder_pan", "shoulder_lift", "elbow_flex", "wrist_flex", "wrist_roll", "gripper")
JOINT_NAMES = tuple(f"{motor}.pos" for motor in MOTORS)
NUM_JOINTS = len(MOTORS)
GRIPPER = NUM_JOINTS - 1
# Public ranges in degrees; on a real arm the range recorded at calibration decides.
JOINT_RANGE_DEG = ((-110.0, 110.0), (-100.0, 100.0), (-96.8, 96.8), (-95.0, 95.0), (-157.2, 162.8))
GRIPPER_RANGE_PERCENT = (0.0, 100.0)
# Angle of the moving jaw at 0 and at 100 percent (public model: -0.1745 and 1.7453 rad).
JAW_CLOSED_DEG = -10.0
JAW_OPEN_DEG = 100.0

# --- Link geometry in metres (planar while wrist_roll is 0) ---------------------------------------------
PAN_AXIS_X_M = 0.0388353
SHOULDER_RADIUS_M = 0.0303992  # horizontal distance from the pan axis to the shoulder_lift axis
SHOULDER_HEIGHT_M = 0.1166
UPPER_ARM_M = (0.028, 0.11257)  # (forward, up) from shoulder_lift to elbow_flex at zero
LOWER_ARM_M = (0.1349, 0.0052)  # (forward, up) from elbow_flex to wrist_flex at zero
WRIST_TO_TIP_M = 0.15923  # wrist_flex to the public "gripperframe", along the roll axis
JAW_PIVOT_M = (
    0.0845,
    0.0211,
)  # (forward, up) from wrist_flex to the jaw's hinge; 18 mm side offset left out (ours)
FIXED_JAW_FACE_M = (
    -0.0079
)  # inner face of the fixed jaw below the roll axis: height of the public gripperframe
# Ours, approximations: the public model's 2.8 degree twist of the gripper about the roll axis and its 0.2 mm
# side offset are left out, so that the arm is exactly planar at wrist_roll 0; the wrist_roll frame's 0.2 mm
# offset from the pan plane likewise.

# --- What may not be touched, metres -----------------------------------------------------------------------
# Ours: a grasp aims at the table, and a zero that is 2 degrees off is 16 mm at full reach.
LOWEST_POINT_M = -0.02
# Ours: least distances between the middle lines of parts, just inside those of the folded rest pose, in which
# a real arm lies on its own stops.
FOREARM_TO_COLUMN_M = 0.020
GRIPPER_TO_COLUMN_M = 0.045
GRIPPER_TO_UPPER_ARM_M = 0.028

# --- Servo model ----------------------------------------------------------------------------------------
SERVO_ARMATURE = 0.028  # kg m^2, JOINT_PROPERTIES
SERVO_FRICTION_NM = 0.052  # JOINT_PROPERTIES
SERVO_STALL_NM = 2.94  # 30 kg cm at 12 V, the force range of the public model
SERVO_SPEED_DEG_S = 270.0  # SERVO_SHEET: how fast the twin's goal may travel
SERVO_KP = 60.0  # Nm/rad. Ours: 50-60 ms of lag, what a P = 16 follower shows; not measured on a servo
GRIPPER_KP = 12.0  # Nm/rad, ours: opens a block's width within two ticks
GRIPPER_ARMATURE = 0.004  # kg m^2, ours: the sheet's 0.028 with the whole arm's damping would take a second
GRIPPER_FORCE_NM = 0.8  # ours: LeRobot halves the gripper's torque limit (1.5 Nm); 10 N at the tip

# --- Rate -------------------------------------------------------------------------------------------------
TWIN_RATE_HZ = 10


def _joint(index: int) -> JointSpec:
    name = JOINT_NAMES[index]
    if index == GRIPPER:
        return JointSpec(
            name=name,
            unit="percent",
            lower=Sourced(GRIPPER_RANGE_PERCENT[0], LEROBOT_CONFIG),
            upper=Sourced(GRIPPER_RANGE_PERCENT[1], LEROBOT_CONFIG),
            max_velocity=Sourced(180.0, OUR_LIMIT),
            max_acceleration=Sourced(1200.0, OUR_LIMIT),
        )
    lower, upper = JOINT_RANGE_DEG[index]
    return JointSpec(
        name=name,
        unit="deg",
        lower=Sourced(lower, PUBLIC_MODEL),
        upper=Sourced(upper, PUBLIC_MODEL),
        max_velocity=Sourced(90.0, OUR_LIMIT),
        max_acceleration=Sourced(400.0, OUR_LIMIT),
    )


SO101 = EmbodimentSpec(
    tag="so101",
    robot_type="so_follower",
    joints=tuple(_joint(index) for index in range(NUM_JOINTS)),
    cameras=(
        CameraSpec("front", 96, 96, "ours: smallest square in which a 30 mm block covers 6 pixels"),
        CameraSpec("wrist", 96, 96, "ours: same size as the front view"),
    ),
    control_rate_hz=Sourced(float(TWIN_RATE_HZ), "ours: rate of the twin and of its recordings"),
    notes={
        "zero": "middle of the recorded range (so101_new_calib); an owner's sweep shifts it by some degrees",
        "action": "absolute joint targets in the units of the state",
    },
)
