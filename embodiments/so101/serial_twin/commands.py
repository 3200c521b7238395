"""What the control channel can be asked: look at the arm as no driver can, lead it by hand, break it.

Each method of TwinCommands is a command; its keyword arguments are the request's. Ids are motor ids 1 to 6.
"""

from __future__ import annotations

import inspect
import itertools
import math
import time
from collections.abc import Callable, Mapping
from typing import Any

from embodiments.feetech.registers import STS3215, register
from embodiments.feetech.simulated.faults import ReplyFault
from embodiments.feetech.simulated.loop import SimulationLoop
from embodiments.feetech.simulated.servo import SimulatedServo
from embodiments.feetech.simulated.station import Station
from embodiments.so101 import constants as c
from embodiments.so101.serial_twin.arm import SimulatedArm
from embodiments.so101.serial_twin.paths import CAMERAS
from embodiments.so101.serial_twin.scene import SceneSpec
from embodiments.so101.serial_twin.table import model_rad

GOALS_PER_ANSWER = 500  # some milliseconds of the bus's time
FOREVER_NS = 1 << 62


class TwinCommands:
    """The commands of a twin with one or two arms."""

    def __init__(self) -> None:
        self.arms: dict[str, tuple[Station, SimulatedArm]] = {}
        self.loop: SimulationLoop | None = None
        self._commands: dict[str, Callable[..., dict[str, Any] | None]] = {
            name: method
            for name, method in inspect.getmembers(self, inspect.ismethod)
            if not name.startswith("_")
        }

    def __call__(self, request: dict[str, Any]) -> dict[str, Any]:
        """The answer to one request; ValueError says what is allowed."""
        arguments = dict(request)
        name = arguments.pop("command", None)
        if name not in self._commands:
            raise ValueError(f"command {name!r} is unknown; allowed are {sorted(self._commands)}")
        takes = list(inspect.signature(self._commands[name]).parameters)
        unknown = sorted(set(arguments) - set(takes))
        if unknown:
            raise ValueError(f"command {name!r} has no {unknown}; it takes {takes}")
        return self._commands[name](**arguments) or {}

    def _station(self, arm: str) -> Station:
        return self._both(arm)[0]

    def _arm(self, arm: str) -> SimulatedArm:
        return self._both(arm)[1]

    def _both(self, arm: str) -> tuple[Station, SimulatedArm]:
        if arm not in self.arms:
            raise ValueError(f"arm {arm!r} is not here; allowed are {sorted(self.arms)}")
        return self.arms[arm]

    def _servo(self, arm: str, id: int) -> SimulatedServo:
        for servo in self._arm(arm).servos:
            if servo.id == id:
                return servo
        raise ValueError(f"motor id {id} is not here; allowed are {self._ids(arm)}")

    def _joint(self, arm: str, id: int) -> int:
        return self._arm(arm).servos.index(self._servo(arm, id))

    def _ids(self, arm: str) -> list[int]:
        return [servo.id for servo in self._arm(arm).servos]

    # -- looking ---------------------------------------------------------------------------------------------
    def status(self) -> dict[str, Any]:
        """How the process runs and what each bus has seen."""
        arms = {
            name: {"port": str(station.wire.path), "plugged": station.wire.plugged, **station.counters()}
            | {"skipped_s": round(arm.skipped_s, 3), "supply_v": round(arm.supply_v, 3)}
            for name, (station, arm) in self.arms.items()
        }
        scheduling = self.loop.scheduling if self.loop else "not running"
        return {"scheduling": scheduling, "now_ns": time.monotonic_ns(), "arms": arms}

    def joints(self, arm: str = "follower") -> dict[str, Any]:
        """True angles in degrees (gripper in percent), speeds in degrees a second, the tip, the torque."""
        plant = self._arm(arm)
        table = plant.table
        speeds = table.data.qvel[: c.NUM_JOINTS]
        return {
            "true": [round(float(value), 4) for value in table.true_joints()],
            "speed_deg_s": [round(math.degrees(value), 4) for value in speeds],
            "tip_m": [round(value, 5) for value in table.tip()],
            "tip_speed_m_s": round(table.tip_speed(), 5),
            "torque": [int(servo.torque) for servo in plant.servos],
            "simulated_s": round(plant.simulated_s, 4),
            "now_ns": time.monotonic_ns(),
        }

    def registers(self, id: int, arm: str = "follower") -> dict[str, Any]:
        """Every register of one servo, by name."""
        servo = self._servo(arm, id)
        servo.read(0, len(servo.memory))
        return {"registers": {name: servo.get(entry) for name, entry in STS3215.items()}}

    def goals(self, arm: str = "follower", since: int = 0) -> dict[str, Any]:
        """Goal writes from number `since` on: [receive time ns, {id: raw}], and the number to go on from."""
        station = self._station(arm)
        first = station.goals_before_log
        start = max(since, first) - first
        found = list(itertools.islice(station.goal_log, start, start + GOALS_PER_ANSWER))
        return {"goals": found, "first": first + start, "next": first + start + len(found)}

    # -- replies that go wrong -------------------------------------------------------------------------------
    def drop(
        self, arm: str = "follower", id: int | None = None, probability: float = 1.0, count: int | None = None
    ) -> None:
        """Loses replies."""
        self._station(arm).faults.active.append(ReplyFault("drop", id, probability, count))

    def corrupt(
        self,
        arm: str = "follower",
        id: int | None = None,
        probability: float = 1.0,
        count: int | None = None,
        bits: int = 1,
    ) -> None:
        """Flips bits in replies."""
        self._station(arm).faults.active.append(ReplyFault("corrupt", id, probability, count, bits))

    def delay(
        self,
        seconds: float,
        arm: str = "follower",
        id: int | None = None,
        probability: float = 1.0,
        count: int | None = None,
    ) -> None:
        """Holds replies back; without `id`, the whole answer."""
        fault = ReplyFault("delay", id, probability, count, seconds=float(seconds))
        self._station(arm).faults.active.append(fault)

    # -- motors, supply, cable -------------------------------------------------------------------------------
    def dead(self, id: int, arm: str = "follower", dead: bool = True, silences_rest: bool = False) -> None:
        """A motor that no longer hears anything; it keeps doing what it does.

        silences_rest: the motors a sync read names after it do not answer either.
        """
        self._servo(arm, id)
        bus = self._station(arm).bus
        bus.dead_silences_rest = silences_rest
        (bus.dead.add if dead else bus.dead.discard)(id)

    def error_bits(self, id: int, bits: int, arm: str = "follower") -> None:
        """Error bits a motor reports whatever its state; 0 ends it."""
        if not 0 <= bits <= 0x7F:
            raise ValueError(f"error bits {bits}; allowed is 0 to 127")
        self._servo(arm, id).forced_errors = bits

    def heat(self, id: int, celsius: float, arm: str = "follower") -> None:
        """Sets a motor's temperature; from there it cools and warms by itself."""
        self._servo(arm, id).protection.temperature_c = float(celsius)

    def write_register(self, id: int, name: str, value: int, arm: str = "follower") -> None:
        """Writes a register as the bus would."""
        entry = register(name)
        self._servo(arm, id).write(entry.address, entry.encode(value))

    def supply(self, volts: float, seconds: float = 0.0, arm: str = "follower") -> None:
        """Ramps the supply voltage."""
        self._arm(arm).set_supply(float(volts), float(seconds))

    def power_cycle(self, arm: str = "follower") -> None:
        """Off and on again: volatile registers are lost, the torque is off."""
        for servo in self._arm(arm).servos:
            servo.power_down()
            servo.power_up()

    def unplug(self, seconds: float | None = None, arm: str = "follower") -> None:
        """Pulls the USB cable, for `seconds` or until `plug`; the servos keep their supply."""
        self._station(arm).unplug(seconds)

    def plug(self, arm: str = "follower") -> None:
        """Plugs the cable in again."""
        station = self._station(arm)
        station.replug_at = None
        station.wire.plug()

    # -- the world -------------------------------------------------------------------------------------------
    def stall(self, id: int, direction: int, arm: str = "follower") -> None:
        """A wall where the joint is: it cannot go on in `direction`, +1 or -1."""
        if direction not in (-1, 1):
            raise ValueError(f"stall: direction is {direction!r}; allowed is 1 or -1")
        self._arm(arm).table.wall(self._joint(arm, id), direction)

    def encoder_jump(self, id: int, steps: int, arm: str = "follower") -> None:
        """The encoder reads `steps` more than before, from now on."""
        self._arm(arm).jump_encoder(self._joint(arm, id), int(steps))

    def hand(self, joints: Mapping[str, float], seconds: float = 1.0, arm: str = "follower") -> None:
        """Somebody leads joints, by name, to true angles in degrees (gripper: percent), and holds them."""
        plant = self._arm(arm)
        unknown = sorted(set(joints) - set(c.MOTORS))
        if unknown:
            raise ValueError(f"hand: joints {unknown} are unknown; allowed are {list(c.MOTORS)}")
        for name, value in joints.items():
            joint = c.MOTORS.index(name)
            start = float(plant.table.data.qpos[joint])
            plant.table.hand.lead(joint, start, model_rad(joint, float(value)), plant.simulated_s, seconds)

    def let_go(self, arm: str = "follower") -> None:
        """Nobody holds the arm any more."""
        self._arm(arm).table.hand.let_go()

    def fold(self, arm: str = "follower") -> None:
        """Somebody switches the arm off, folds it, lets it settle, and switches it on again."""
        self._arm(arm).table.hand.let_go()
        self._arm(arm).lie_down()

    def freeze(self, camera: str, seconds: float | None = None) -> None:
        """A camera shows nothing new for `seconds`, or for good; 0 ends it."""
        if camera not in CAMERAS:
            raise ValueError(f"freeze: camera {camera!r} is unknown; allowed are {list(CAMERAS)}")
        until = FOREVER_NS if seconds is None else time.monotonic_ns() + int(seconds * 1e9)
        self._arm("follower").frozen_until_ns[camera] = until
        self._arm("follower").publish()

    def clear(self) -> None:
        """Ends every fault; encoders, supply and cable are as at the start."""
        for station, plant in self.arms.values():
            station.faults.active.clear()
            station.bus.dead.clear()
            station.bus.dead_silences_rest = False
            station.replug_at = None
            station.wire.plug()
            plant.encoder_jump = [0.0] * c.NUM_JOINTS
            plant.set_supply(12.0, 0.0)
            plant.table.remove_walls()
            plant.table.hand.let_go()
            plant.frozen_until_ns = dict.fromkeys(CAMERAS, 0)
            for servo in plant.servos:
                servo.forced_errors = 0

    # -- scenes ----------------------------------------------------------------------------------------------
    def scene(
        self,
        seed: int = 0,
        family: str | None = None,
        variation: Mapping[str, Any] | None = None,
        keep_arm: bool = True,
    ) -> dict[str, Any]:
        """Lays out a scene. Without keep_arm the arm starts at rest, without torque."""
        arm = self._arm("follower")
        arm.lay_out(SceneSpec(seed, family, variation or {}), keep_arm=keep_arm)
        return arm.outcome()

    def outcome(self) -> dict[str, Any]:
        """The task of the scene, and whether it is done."""
        return self._arm("follower").outcome()

    def table(self) -> dict[str, Any]:
        """Blocks, zones and bin, metres."""
        state = self._arm("follower").table.table_state()
        return {
            "blocks": state.blocks.tolist(),
            "present": state.present.tolist(),
            "zones": state.zones.tolist(),
            "bin": state.bin.tolist(),
        }

    def advance(self, seconds: float) -> dict[str, Any]:
        """Lets simulated time pass, on a simulated clock, for every arm."""
        for _, arm in self.arms.values():
            arm.run(float(seconds))
            arm.publish()
        return {"simulated_s": self._arm("follower").simulated_s}
