"""A tiny dataset, LeRobot's commands in one process, and one training that many tests look at."""

import dataclasses
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import pytest

HERE = Path(__file__).parent
JOINTS = ("shoulder_pan", "shoulder_lift", "elbow_flex", "wrist_flex", "wrist_roll", "gripper")
NAMES = [f"{joint}.pos" for joint in JOINTS]
FPS = 10
TASKS = ("touch the red block", "push the blue block into the left zone")
SMALL_POLICY = (
    "--policy.type=hybrid",
    "--policy.device=cpu",
    "--policy.image_size=[32, 32]",
    "--policy.width=32",
    "--policy.depth=2",
    "--policy.heads=2",
    "--policy.num_keypoints=8",
    "--policy.tokens_per_view=2",
    "--policy.keypoint_features=2",
    "--policy.frame_channels=16",
    "--policy.world_share=0.5",
    "--policy.scheduler_warmup_steps=1",
)
LOADING = ("--num_workers=0", "--dataset.video_backend=pyav", "--wandb.enable=false", "--batch_size=8")


@dataclasses.dataclass(frozen=True)
class Result:
    """What a command returned and everything it said."""

    code: int
    output: str


def write_dataset(root: Path, fps: int = FPS, names: list[str] = NAMES) -> None:
    """Three episodes of two cameras and six joints in degrees, as `lerobot-record` writes them."""
    from lerobot.datasets import LeRobotDataset

    camera = {"dtype": "video", "shape": (48, 48, 3), "names": ["height", "width", "channels"]}
    joints = {"dtype": "float32", "shape": (len(names),), "names": names}
    features = {
        "observation.images.front": camera,
        "observation.images.wrist": camera,
        "observation.state": joints,
        "action": joints,
    }
    dataset = LeRobotDataset.create(
        "tests/tiny", fps, features, root=root, robot_type="so_follower", use_videos=True
    )
    random = np.random.default_rng(0)
    for episode in range(3):
        state = random.normal(scale=20.0, size=len(names)).astype(np.float32)
        for _ in range(12):
            action = state + random.normal(scale=4.0, size=len(names)).astype(np.float32)
            pictures = {
                f"observation.images.{name}": random.integers(0, 255, (48, 48, 3), dtype=np.uint8)
                for name in ("front", "wrist")
            }
            frame = {"observation.state": state, "action": action, "task": TASKS[episode % 2], **pictures}
            dataset.add_frame(frame)
            state = action
        dataset.save_episode()
    dataset.finalize()


@pytest.fixture(scope="session")
def small_policy():
    """Arguments of a policy that trains in seconds."""
    return SMALL_POLICY


@pytest.fixture(scope="session")
def loading():
    """Arguments that spare a small machine LeRobot's defaults: workers, a video decoder that is not there."""
    return LOADING


@pytest.fixture(scope="session")
def workplace(tmp_path_factory):
    """A folder for the whole session."""
    return tmp_path_factory.mktemp("lerobot")


@pytest.fixture(scope="session")
def dataset(workplace):
    """(fps, names) → root of a tiny dataset, written once."""
    written = {}

    def root(fps=FPS, names=NAMES):
        key = (fps, tuple(names))
        if key not in written:
            written[key] = workplace / f"dataset-{len(written)}"
            write_dataset(written[key], fps, names)
        return written[key]

    return root


@pytest.fixture(scope="session")
def command():
    """(name, *arguments) → Result of `lerobot-<name>`; all of them share one process."""
    environment = os.environ | {"PYTHONPATH": str(HERE), "OMP_NUM_THREADS": "1"}
    with tempfile.TemporaryFile() as noise:  # warnings of imports; a full pipe would stop the process
        server = subprocess.Popen(
            [sys.executable, str(HERE / "command_server.py")],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=noise,
            text=True,
            env=environment,
        )

        def run(name, *arguments):
            server.stdin.write(json.dumps({"command": name, "arguments": [str(a) for a in arguments]}) + "\n")
            server.stdin.flush()
            answer = server.stdout.readline()
            if not answer:
                noise.seek(0)
                pytest.fail(
                    f"the process that runs LeRobot's commands died:\n{noise.read().decode()[-4000:]}"
                )
            return Result(**json.loads(answer))

        yield run
        server.stdin.close()
        server.wait(timeout=30)


@pytest.fixture(scope="session")
def trained(workplace, dataset):
    """Output folder of `lerobot-train --policy.type=hybrid`: the console script, and no flag to find us."""
    output = workplace / "trained"
    arguments = [
        str(Path(sys.executable).with_name("lerobot-train")),
        *SMALL_POLICY,
        *LOADING,
        "--dataset.repo_id=tests/tiny",
        f"--dataset.root={dataset()}",
        f"--output_dir={output}",
        "--steps=4",
        "--save_freq=2",
        "--log_freq=1",
        "--seed=7",
    ]
    done = subprocess.run(
        arguments, capture_output=True, text=True, env=os.environ | {"OMP_NUM_THREADS": "1"}
    )
    assert done.returncode == 0, done.stderr[-4000:]
    (output / "said.txt").write_text(done.stdout + done.stderr)
    return output


@pytest.fixture(scope="session")
def checkpoint(trained):
    """Its last pretrained_model folder."""
    return trained / "checkpoints" / "last" / "pretrained_model"
