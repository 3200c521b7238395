"""The arm behind the servos: MuJoCo's joints, driven as the servos say, in wall or simulated time."""

from __future__ import annotations

import math
import time

from embodiments.feetech.simulated import factory
from embodiments.feetech.simulated.servo import HOLD, Drive, SimulatedServo
from embodiments.so101 import constants as c
from embodiments.so101.serial_twin.owner import STEPS_PER_DEG, OwnersArm
from embodiments.so101.serial_twin.table import SerialTable, model_rad
from embodiments.so101.twin.gl import mujoco

STEP_S = 0.002
SERVO_STEPS = 2  # physics steps between two of a servo's own: 4 ms
MAX_BEHIND_S = 0.25  # a process that was stopped longer skips the time instead of racing through it
LIE_DOWN_S = 4.0  # of physics, until the arm is still
FOLDED = (0.0, -98.0, 94.0, 60.0, 0.0, 3.0)  # true degrees, percent; leaning back on its end stops
CONTACT_STEPS = 5  # physics steps between two looks at the contacts
WALL = "wall"
SIMULATED = "sim"
STEPS_PER_RAD = STEPS_PER_DEG * 180 / math.pi
# A servo's stall torque at nominal supply. LeRobot halves the gripper's, which gives the twin's grip.
STALL_NM = (*(c.SERVO_STALL_NM,) * c.GRIPPER, 2 * c.GRIPPER_FORCE_NM)


class ArmPlant:
    """Six servos on one arm. `advance` is called with the clock; nothing moves in between."""

    def __init__(
        self, table: SerialTable, owner: OwnersArm, *, torque_on: str = HOLD, clock: str = WALL
    ) -> None:
        if clock not in (WALL, SIMULATED):
            raise ValueError(f"simulated arm: clock is {clock!r}; allowed is {WALL!r} or {SIMULATED!r}")
        self.table = table
        self.owner = owner
        self.clock = clock
        self.supply_v = factory.NOMINAL_V  # open-circuit
        self.supply_ramp_v_s = 0.0
        self.supply_target_v = factory.NOMINAL_V
        self.encoder_jump = [0.0] * c.NUM_JOINTS  # steps added to what each encoder reads
        self.skipped_s = 0.0
        self.servos = tuple(
            SimulatedServo(owner.eeprom(joint), torque_on=torque_on) for joint in range(c.NUM_JOINTS)
        )
        self._stiffness = table.model.actuator_gainprm[:, 0].copy()
        self._damping = -table.model.actuator_biasprm[:, 2].copy()
        self._drives: list[Drive | None] = [None] * c.NUM_JOINTS
        self._steps = 0
        self._until = time.monotonic()
        self.settle()

    def settle(self) -> None:
        """Puts the servos' encoders where the joints are, as at power up."""
        for joint, servo in enumerate(self.servos):
            servo.position = self._encoder(joint, float(self.table.data.qpos[joint]))
            servo.power_up()
        self._drive_servos()

    # -- time ------------------------------------------------------------------------------------------------
    def lie_down(self) -> None:
        """Folds the arm and lets it settle without torque: how owners leave theirs, and where it stays."""
        self.table.data.qpos[: c.NUM_JOINTS] = [model_rad(*joint) for joint in enumerate(FOLDED)]
        self.settle()
        for _ in range(round(LIE_DOWN_S / STEP_S)):
            self._step()
        self.begin(time.monotonic())

    def begin(self, now: float) -> None:
        """The wall clock counts from `now`."""
        self._until = now

    def advance(self, now: float) -> None:
        """Lets physics catch up with time.monotonic() `now`; with a simulated clock, does nothing."""
        if self.clock == SIMULATED:
            return
        behind = now - self._until
        if behind > MAX_BEHIND_S:
            self.skipped_s += behind - MAX_BEHIND_S
            self._until = now - MAX_BEHIND_S
        while self._until + STEP_S <= now:
            self._step()
            self._until += STEP_S

    def run(self, seconds: float) -> None:
        """Advances a simulated clock."""
        if self.clock != SIMULATED:
            raise ValueError("simulated arm: it runs on the wall clock; start it with --clock sim to step it")
        for _ in range(round(seconds / STEP_S)):
            self._step()

    @property
    def shown_s(self) -> float:
        """time.monotonic() of the moment physics has reached, on the wall clock."""
        return self._until

    @property
    def simulated_s(self) -> float:
        """Physics time since the arm was made."""
        return self._steps * STEP_S

    def _step(self) -> None:
        if self._steps % SERVO_STEPS == 0:
            self._drive_servos()
        data = self.table.data
        if self._hand_is_there():
            data.qfrc_applied[: c.NUM_JOINTS] = self.table.hand.torques(
                self.simulated_s, data.qpos[: c.NUM_JOINTS].tolist(), data.qvel[: c.NUM_JOINTS].tolist()
            )
        mujoco.mj_step(self.table.model, data)
        self._steps += 1
        if self._steps % CONTACT_STEPS == 0:
            self.table.watch_contacts()

    def _hand_is_there(self) -> bool:
        if self.table.hand.holds_any:
            return True
        if self.table.data.qfrc_applied[: c.NUM_JOINTS].any():
            self.table.data.qfrc_applied[: c.NUM_JOINTS] = 0.0
        return False

    # -- servos and joints -----------------------------------------------------------------------------------
    def _encoder(self, joint: int, angle_rad: float) -> float:
        return self.owner.mount[joint] + angle_rad * STEPS_PER_RAD + self.encoder_jump[joint]

    def _drive_servos(self) -> None:
        data = self.table.data
        angles, speeds = data.qpos[: c.NUM_JOINTS].tolist(), data.qvel[: c.NUM_JOINTS].tolist()
        forces = data.actuator_force[: c.NUM_JOINTS].tolist()
        volts = self._terminal_voltage(SERVO_STEPS * STEP_S)
        targets = [0.0] * c.NUM_JOINTS
        for joint, servo in enumerate(self.servos):
            encoder = self._encoder(joint, angles[joint])
            effort = forces[joint] / STALL_NM[joint]
            drive = servo.step(SERVO_STEPS * STEP_S, encoder, speeds[joint] * STEPS_PER_RAD, effort, volts)
            # The servo steers what its encoder shows, right or wrong, to its target.
            targets[joint] = angles[joint] + (drive.target - encoder) / STEPS_PER_RAD
            self._apply_gains(joint, drive)
        data.ctrl[: c.NUM_JOINTS] = targets

    def _terminal_voltage(self, dt: float) -> float:
        step = self.supply_ramp_v_s * dt
        self.supply_v += max(-step, min(step, self.supply_target_v - self.supply_v))
        current = sum(servo.current_a for servo in self.servos)
        return max(0.0, self.supply_v - current * factory.SUPPLY_OHM)

    def _apply_gains(self, joint: int, drive: Drive) -> None:
        last = self._drives[joint]
        if last is not None and (last.on, last.limit, last.stiffness, last.damping) == (
            drive.on,
            drive.limit,
            drive.stiffness,
            drive.damping,
        ):
            return
        self._drives[joint] = drive
        model = self.table.model
        gain = float(self._stiffness[joint]) * drive.stiffness
        model.actuator_gainprm[joint, 0] = gain
        model.actuator_biasprm[joint, 1] = -gain
        model.actuator_biasprm[joint, 2] = -float(self._damping[joint]) * drive.damping
        force = drive.limit * STALL_NM[joint]
        model.actuator_forcerange[joint] = (-force, force)

    def jump_encoder(self, joint: int, steps: int) -> None:
        """From now on, the encoder of `joint` reads `steps` more than before."""
        self.encoder_jump[joint] += steps
        self.servos[joint].position += steps

    def set_supply(self, volts: float, seconds: float) -> None:
        """Ramps the supply to `volts` within `seconds`; 0 to 15 V."""
        if not 0.0 <= volts <= 15.0:
            raise ValueError(f"simulated supply: {volts} V; allowed is 0 to 15")
        self.supply_target_v = volts
        self.supply_ramp_v_s = abs(volts - self.supply_v) / max(seconds, 1e-6)
