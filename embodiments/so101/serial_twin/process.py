"""The twin as a process: builds the arms, starts the cameras, serves the buses until it is told to stop."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from embodiments.feetech.simulated.channel import ControlChannel
from embodiments.feetech.simulated.loop import SimulationLoop
from embodiments.feetech.simulated.servo import HOLD
from embodiments.feetech.simulated.station import Station
from embodiments.so101.serial_twin.arm import SimulatedArm
from embodiments.so101.serial_twin.commands import TwinCommands
from embodiments.so101.serial_twin.owner import draw_owner
from embodiments.so101.serial_twin.paths import CAMERAS, TwinPaths, default_link
from embodiments.so101.serial_twin.plant import WALL
from embodiments.so101.serial_twin.scene import SceneSpec
from embodiments.so101.serial_twin.shared_state import SharedState

CAMERA_START_S = 60.0
LEADER_SEED = 1000  # added to the seed: another arm, mounted and calibrated by the same hands


class TwinStartError(RuntimeError):
    """The twin could not be started; the text says which part and why."""


@dataclass(frozen=True)
class TwinSettings:
    """What a twin is asked to be.

    link: the port's name. calibration_dir: where `<id>.json` is written (leader: in `leader/` below it).
    error_deg: how far the owner's zeros are off. clock: "wall" or "sim". torque_on: "hold" or "old_goal".
    size, fps: of the cameras, which cameras=False leaves out. realtime: ask for real-time priority.
    """

    link: Path = field(default_factory=default_link)
    seed: int = 0
    calibration_dir: Path | None = None
    calibration_id: str = "twin"
    error_deg: float = 3.0
    leader: bool = False
    cameras: bool = True
    size: int = 96
    fps: float = 30.0
    clock: str = WALL
    torque_on: str = HOLD
    realtime: bool = True
    scene: SceneSpec = field(default_factory=SceneSpec)

    def __post_init__(self) -> None:
        if not 16 <= self.size <= 640:
            raise ValueError(f"so101 twin: camera size is {self.size}; allowed is 16 to 640 pixels")
        if not 1.0 <= self.fps <= 120.0:
            raise ValueError(f"so101 twin: camera rate is {self.fps}; allowed is 1 to 120 a second")
        if not self.calibration_id or "/" in self.calibration_id:
            raise ValueError(f"so101 twin: id {self.calibration_id!r} names a file; give a plain name")

    @property
    def paths(self) -> TwinPaths:
        """Where everything is."""
        return TwinPaths(self.link)


def run_twin(
    settings: TwinSettings, announce: Callable[[Mapping[str, Any]], None], *, stop_fds: Sequence[int] = ()
) -> None:
    """Runs until SIGINT, SIGTERM, or until one of `stop_fds` is readable; `announce` gets what to connect to.

    Raises TwinStartError, ChannelInUse (an OSError) if another twin has this name.
    """
    paths = settings.paths
    paths.link.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    # Signals are let through again after everything else: a second Ctrl-C must not interrupt the cleaning up.
    with contextlib.ExitStack() as signals, contextlib.ExitStack() as cleanup:
        commands = TwinCommands()
        channel = ControlChannel(paths.control, commands)  # first: it finds out whether the name is free
        cleanup.callback(channel.close)
        shared = SharedState(paths.state, create=True)
        cleanup.callback(paths.state.unlink, missing_ok=True)
        cameras = _start_cameras(settings, cleanup) if settings.cameras else None
        arms = _build_arms(settings, cleanup)
        arms["follower"][1].show_to(shared)
        commands.arms = arms
        if cameras is not None:
            _wait_for_cameras(cameras, paths)
        stop = signals.enter_context(_stop_signals())
        loop = SimulationLoop(
            [station for station, _ in arms.values()],
            channel,
            stop_fds=(stop, *stop_fds),
            on_tick=lambda now: arms["follower"][1].publish(),
        )
        commands.loop = loop
        for _, arm in arms.values():
            arm.begin(time.monotonic())
        loop.run(
            realtime=settings.realtime, on_ready=lambda: announce(_announcement(settings, loop.scheduling))
        )


def _build_arms(
    settings: TwinSettings, cleanup: contextlib.ExitStack
) -> dict[str, tuple[Station, SimulatedArm]]:
    paths = settings.paths
    folder = settings.calibration_dir or paths.calibration
    kinds = {"follower": (paths.link, folder, 0)}
    if settings.leader:
        kinds["leader"] = (paths.leader, folder / "leader", LEADER_SEED)
    arms = {}
    for name, (link, calibration, offset) in kinds.items():
        owner = draw_owner(settings.seed + offset, settings.error_deg)
        calibration.mkdir(parents=True, exist_ok=True)
        (calibration / f"{settings.calibration_id}.json").write_text(owner.calibration.dump() + "\n")
        arm = SimulatedArm(owner, settings.scene, torque_on=settings.torque_on, clock=settings.clock)
        arm.lie_down()
        station = Station(name, link, arm, seed=settings.seed + offset)
        station.wire.plug()
        cleanup.callback(station.wire.unplug)
        arms[name] = (station, arm)
    return arms


def _start_cameras(settings: TwinSettings, cleanup: contextlib.ExitStack) -> subprocess.Popen[bytes]:
    paths = settings.paths
    frames = [str(paths.frames(name)) for name in CAMERAS]
    for name in CAMERAS:
        paths.frames(name).unlink(missing_ok=True)
    process = subprocess.Popen(
        [
            sys.executable,
            "-m",
            "embodiments.so101.serial_twin.camera_process",
            str(paths.state),
            str(settings.size),
            str(settings.fps),
            *frames,
        ],
        stdin=subprocess.PIPE,
        start_new_session=True,  # a Ctrl-C in the terminal is the twin's business; it ends its cameras
    )
    cleanup.callback(_end_cameras, process)
    return process


def _end_cameras(process: subprocess.Popen[bytes]) -> None:
    assert process.stdin is not None
    process.stdin.close()
    try:
        process.wait(timeout=5.0)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def _wait_for_cameras(process: subprocess.Popen[bytes], paths: TwinPaths) -> None:
    deadline = time.monotonic() + CAMERA_START_S
    while not all(paths.frames(name).exists() for name in CAMERAS):
        if process.poll() is not None:
            raise TwinStartError(
                f"so101 twin: the camera process ended with code {process.returncode}, its message is above; "
                "without a GL driver start the twin with --no-cameras"
            )
        if time.monotonic() > deadline:
            raise TwinStartError(
                f"so101 twin: no picture within {CAMERA_START_S:.0f} s; use a smaller --size, or --no-cameras"
            )
        time.sleep(0.02)


def _announcement(settings: TwinSettings, scheduling: str) -> dict[str, Any]:
    paths = settings.paths
    folder = settings.calibration_dir or paths.calibration
    found: dict[str, Any] = {
        "port": str(paths.link),
        "id": settings.calibration_id,
        "calibration_dir": str(folder),
        "control": str(paths.control),
        "cameras": {name: str(paths.frames(name)) for name in CAMERAS} if settings.cameras else {},
        "seed": settings.seed,
        "scheduling": scheduling,
    }
    if settings.leader:
        found["leader"] = {"port": str(paths.leader), "calibration_dir": str(folder / "leader")}
    return found


@contextlib.contextmanager
def _stop_signals() -> Iterator[int]:
    """A descriptor that becomes readable when the process is asked to end."""
    reading, writing = os.pipe()
    os.set_blocking(writing, False)

    def ask(number: int, frame: object) -> None:
        with contextlib.suppress(BlockingIOError):
            os.write(writing, b"x")

    before = {number: signal.signal(number, ask) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield reading
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        os.close(reading)
        os.close(writing)
