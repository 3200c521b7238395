"""LeRobot's SO follower behind the guard: the same name, keys and calibration; the port in another process.

connect, get_observation, send_action and disconnect talk to the control process. The parent's bus object is
built (its motors and calibration are looked at by LeRobot's commands) and opened only to calibrate and to set
motors up, which the control process has no part in.
"""

from __future__ import annotations

import contextlib
import logging
import os
import sys
import time
from collections.abc import Callable
from typing import Any

from lerobot.lerobot_types import RobotAction, RobotObservation
from lerobot.robots.so_follower import SOFollower
from lerobot.utils.decorators import check_if_already_connected, check_if_not_connected
from lerobot.utils.errors import DeviceNotConnectedError

from embodiments.control.client import ControlledArm
from embodiments.control.errors import ControlError
from embodiments.control.launch import open_stop_device
from embodiments.control.link import ArmState, Severity
from embodiments.control.spec import ControlSpec
from embodiments.so101.arm_spec import REGISTERS, control_spec
from embodiments.so101.configuration import GuardedSO100Config, GuardedSO101Config
from firmware_bridge.safety import State

logger = logging.getLogger(__name__)

LEVELS = {Severity.INFO: logging.INFO, Severity.WARNING: logging.WARNING, Severity.ERROR: logging.ERROR}
MAX_AGE_S = 0.2  # of joint positions and pictures handed to a policy
PICTURE_WAIT_S = 5.0
PICTURE_LOOK_S = 0.005
LONGEST_PERIOD_S = 0.2
PATIENCE_S = 0.3  # three control cycles at the slowest rate: by then a near setpoint is followed
GIVEN_UP_S = 1.0
PERIOD_SHARE = 0.3  # of the newest interval in the running estimate of the caller's period
FOLLOWING = (State.HOLD, State.RUN, State.STALE)


class GuardedSO101(SOFollower):
    """A guarded SO-101.

    Errors besides LeRobot's own: those of `embodiments.control.errors` and `embodiments.feetech.errors`.
    """

    config_class = GuardedSO101Config
    name = "so_follower"  # the owner's calibration folder and the robot type of his datasets

    def __init__(self, config: GuardedSO101Config) -> None:
        super().__init__(config)
        self.config: GuardedSO101Config = config
        self.controlled: ControlledArm | None = None
        self._owner = os.getpid()
        self._period_s = 0.0
        self._sent_s: float | None = None
        self._stale_s: float | None = None  # since when actions have not been followed

    # -- life ------------------------------------------------------------------------------------------------
    @property
    def is_connected(self) -> bool:
        """Whether the control process owns the port, or the bus is open for calibration.

        Cameras do not count: LeRobot takes an arm down only while this is true, and a camera that is gone is
        no reason to leave the torque on.
        """
        return (self.controlled is not None and self.controlled.is_running) or self.bus.is_connected

    @property
    def is_calibrated(self) -> bool:
        """Whether motors and file agree; the control process takes no arm for which they do not."""
        if self.controlled is not None and self.controlled.is_running:
            return True
        return bool(self.calibration) and self.bus.is_connected and self.bus.is_calibrated

    @check_if_already_connected
    def connect(self, calibrate: bool = True) -> None:
        """Take the arm and, with `calibrate`, arm it. Without, as lerobot-calibrate asks: open the bus only.

        CalibrationMismatch instead of LeRobot's question if file and motors differ; nothing is energised.
        """
        if not calibrate:
            self.bus.connect()
            return
        if not self.calibration:
            raise ControlError(
                f"{self}: no calibration {self.calibration_fpath}; run lerobot-calibrate with this --robot.id"
            )
        with contextlib.suppress(ControlError):  # what an earlier connection that broke has left open
            self._end()
        pressed = None if self.config.estop_device is None else open_stop_device(self.config.estop_device)
        self.controlled = ControlledArm(self._spec(), self._log, pressed)
        try:
            self.controlled.start()
            for camera in self.cameras.values():
                camera.connect()
            self._arm()
        except BaseException:  # also Ctrl-C at the prompt: nothing stays connected half way
            self._end()
            raise
        finally:
            if pressed is not None:
                os.close(pressed)  # the control process has its own

    def _spec(self) -> ControlSpec:
        config = self.config
        gains = {
            "P_Coefficient": config.position_p_coefficient,
            "I_Coefficient": config.position_i_coefficient,
            "D_Coefficient": config.position_d_coefficient,
        }
        settings: dict[str, Any] = {"registers": REGISTERS | gains}
        if config.park_pose is not None:
            settings["park"] = tuple(config.park_pose)
        if config.log_dir is not None:
            config.log_dir.mkdir(parents=True, exist_ok=True)
            stamp = time.strftime("%Y%m%d-%H%M%S")
            settings["journal"] = str(config.log_dir / f"{self.id}-{stamp}.jsonl")
        return control_spec(
            config.port,
            self.calibration_fpath,
            first_run=config.first_run,
            rate_hz=config.control_rate_hz,
            setpoint_ttl_us=config.setpoint_ttl_ms * 1000,
            frame_timeout_us=round(config.client_timeout_s * 1e6),
            **settings,
        )

    def _arm(self) -> None:
        assert self.controlled is not None
        if self.config.arm == "prompt":
            if not sys.stdin.isatty():
                raise ControlError(
                    f"{self}: somebody has to consent to torque, and there is no terminal to ask; "
                    "start with --robot.arm=auto if starting the command is the consent"
                )
            input(f"{self}: stand clear of the arm, then press ENTER to switch its torque on... ")
        self.controlled.arm()

    def _end(self) -> None:
        controlled, self.controlled = self.controlled, None
        try:
            if controlled is not None:
                controlled.close()
        finally:
            for camera in self.cameras.values():
                if camera.is_connected:
                    camera.disconnect()

    def disconnect(self) -> None:
        """Park, let go, give the port up; cameras, too, where the control process is gone already."""
        if self.controlled is None and not self.bus.is_connected:
            raise DeviceNotConnectedError(f"{self} is not connected; call connect first")
        if self.bus.is_connected:
            self.bus.disconnect(self.config.disable_torque_on_disconnect)
        self._end()

    def __del__(self) -> None:
        # LeRobot disconnects here. A forked child that drops its copy must not bring its parent's arm down.
        if getattr(self, "_owner", None) == os.getpid():
            super().__del__()

    # -- what LeRobot does on the bus itself -----------------------------------------------------------------
    def configure(self) -> None:
        """Nothing: registers are set when the control process attaches, without toggling the torque."""

    def calibrate(self) -> None:
        """LeRobot's calibration, with the control process out of the way."""
        self._use_bus()
        super().calibrate()

    def setup_motors(self) -> None:
        """LeRobot's motor setup, with the control process out of the way."""
        self._end()
        super().setup_motors()

    def _use_bus(self) -> None:
        self._end()
        if not self.bus.is_connected:
            self.bus.connect()

    # -- the loop --------------------------------------------------------------------------------------------
    @check_if_not_connected
    def get_observation(self) -> RobotObservation:
        """Joint positions and pictures at most 0.2 s old.

        Where a camera stands still this waits, up to 5 s, and the arm, given no actions, stops and holds:
        then TimeoutError.
        """
        pictures: dict[str, Any] = {}
        for name, camera in self.cameras.items():
            if getattr(camera, "use_rgb", True):
                pictures[name] = self._fresh(name, camera.read_latest)
            if getattr(camera, "use_depth", False):
                pictures[f"{name}_depth"] = self._fresh(name, camera.read_latest_depth)
        return self._named(self._controlled().observe(MAX_AGE_S).measured) | pictures

    def _fresh(self, name: str, read: Callable[..., Any]) -> Any:
        """A picture of one camera, waiting for one that is new enough."""
        since = None
        while True:
            try:
                return read(max_age_ms=round(MAX_AGE_S * 1e3))
            except TimeoutError:
                if since is None:
                    since = time.monotonic()
                    logger.warning("%s: camera %s stands still; the arm holds until it goes on", self, name)
                elif time.monotonic() - since > PICTURE_WAIT_S:
                    raise
            time.sleep(PICTURE_LOOK_S)

    @check_if_not_connected
    def send_action(self, action: RobotAction) -> RobotAction:
        """Hand a target to the control process; the goal it has really sent last.

        ValueError for joints that are missing or unknown; ArmStopped in FAULT and ESTOP. A number that is not
        finite is refused, counted, and keeps nothing alive.
        """
        controlled = self._controlled()
        controlled.raise_if_stopped()
        state = controlled.state
        if state.state not in FOLLOWING:
            raise ControlError(f"{self}: the arm is {state.state.name} and follows nothing; arm it first")
        self._follow_again(controlled, state)
        controlled.send(self._targets(action), self._measure_period())
        return self._named(controlled.state.sent)

    def _targets(self, action: RobotAction) -> list[float]:
        wanted = list(self.action_features)
        if set(action) != set(wanted):
            raise ValueError(
                f"{self}: action has {sorted(action)}; allowed is exactly {wanted}; map the policy's names"
            )
        return [float(action[name]) for name in wanted]

    def _measure_period(self) -> float:
        """The caller's period as it has been lately: the time the arm may take for each action."""
        now = time.monotonic()
        if self._sent_s is not None and now - self._sent_s < LONGEST_PERIOD_S:
            newest = now - self._sent_s
            share = PERIOD_SHARE if self._period_s else 1.0
            self._period_s += share * (newest - self._period_s)
        self._sent_s = now
        return self._period_s

    def _follow_again(self, controlled: ControlledArm, state: ArmState) -> None:
        """After a pause of the caller: setpoints near enough are followed at once, others after a re-arm."""
        now = time.monotonic()
        if state.state != State.STALE:
            self._stale_s = None
        elif self._stale_s is None:
            self._stale_s = now
        elif self.config.stale_rearm == "auto" and now - self._stale_s > PATIENCE_S:
            logger.warning("%s: the loop had paused and is somewhere else now; approaching", self)
            controlled.arm()
            self._stale_s = None
        elif now - self._stale_s > GIVEN_UP_S:
            raise ControlError(
                f"{self}: the loop had paused, and with stale_rearm=human somebody has to arm again: "
                "reconnect"
            )

    def _controlled(self) -> ControlledArm:
        if self.controlled is None:
            raise ControlError(f"{self}: connected for calibration only; connect again to move")
        return self.controlled

    def _named(self, values: tuple[float, ...]) -> dict[str, Any]:
        return dict(zip(self.action_features, values, strict=True))

    def _log(self, severity: Severity, text: str) -> None:
        logger.log(LEVELS[severity], "%s: %s", self, text)

    @property
    def control_state(self) -> ArmState:
        """State, cause, counters and times of the newest control cycle."""
        return self._controlled().state


class GuardedSO100(GuardedSO101):
    """A guarded SO-100."""

    config_class = GuardedSO100Config
