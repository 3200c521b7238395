"""An owner's recording as lerobot-record writes it, 30 Hz, 640×480, two cameras, degrees: one command."""

import json
import shutil
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch
from lerobot.datasets import LeRobotDataset

from embodiments.feetech.calibration import Calibration, CalibrationError, MotorCalibration
from embodiments.so101.constants import JOINT_NAMES, MOTORS
from hybridpolicy.configuration_hybrid import HybridConfig
from hybridpolicy.couplings import COUPLINGS
from hybridpolicy.dataset_facts import adopt_dataset
from hybridpolicy.errors import ConfigurationError, DatasetError
from hybridpolicy.goal import build_tokenizer
from hybridpolicy.modeling_hybrid import HybridPolicy
from hybridpolicy.outcome_schema import FLAGS, STOP_REASON, SUCCESS, outcome_features
from hybridpolicy.training.run import build_policy
from recipes.commands import main
from recipes.own_data import HELD_OUT_ROLLOUTS, derive_arm, image_size, read_arm, recipe, seen_episodes

HEIGHT, WIDTH, FPS, FRAMES = 480, 640, 30, 30


def record(root: Path, joints=JOINT_NAMES, reach=100.0, episodes=2, tried=False) -> Path:
    """A recording of two views of moving noise; body joints sweep ±`reach` degrees.

    tried: by a policy, every second time in success.
    """
    picture = {"dtype": "video", "shape": (HEIGHT, WIDTH, 3), "names": ["height", "width", "channels"]}
    numbers = {"dtype": "float32", "shape": (len(joints),), "names": list(joints)}
    features = {
        "observation.images.front": picture,
        "observation.images.wrist": picture,
        "observation.state": numbers,
        "action": numbers,
    } | (outcome_features() if tried else {})
    dataset = LeRobotDataset.create(
        "owner/pick", FPS, features, root=root, robot_type="so_follower", use_videos=True
    )
    rng = np.random.default_rng(0)
    base = rng.integers(0, 255, (HEIGHT // 16, WIDTH // 16, 3), dtype=np.uint8).repeat(16, 0).repeat(16, 1)
    for episode in range(episodes):
        for frame in range(FRAMES):
            ended = frame == FRAMES - 1
            outcome = {name: np.array([False]) for name in FLAGS} | {
                STOP_REASON: "time limit" if ended else ""
            }
            outcome |= {SUCCESS: np.array([ended and episode % 2 == 0])}
            angles = reach * np.sin(np.linspace(0, 1, len(joints)) + frame / FRAMES * 2 * np.pi)
            angles[-1] = 50.0 + 40.0 * np.sin(frame)
            dataset.add_frame(
                {
                    "observation.images.front": np.roll(base, frame * 4, axis=1),
                    "observation.images.wrist": np.roll(base, frame * 4 + episode, axis=0),
                    "observation.state": angles.astype(np.float32),
                    "action": (angles + 1.0).astype(np.float32),
                    "task": "put the pen into the cup",
                }
                | (outcome if tried else {})
            )
        dataset.save_episode()
    dataset.finalize()
    return root


@pytest.fixture(scope="module")
def recording(tmp_path_factory):
    return record(tmp_path_factory.mktemp("owner") / "pick", reach=105.0)


def test_the_run_follows_from_the_dataset(recording):
    config = recipe(str(recording))
    policy = config.policy
    assert (policy.embodiment, policy.fps, policy.action_convention) == ("so101", 30.0, "relative")
    assert (policy.chunk_size, policy.n_action_steps, policy.world_offsets) == (24, 6, [12, 24])
    assert policy.image_size == [96, 128]
    assert (policy.waypoint_offsets, policy.waypoint_weight) == ([12, 24, 36, 48, 60], 4.0)
    assert [stage.name for stage in config.stages] == ["world", "policy"]
    assert config.stages[-1].sources[0].onset_share == 0.0  # one instruction: nothing to tell apart


@pytest.mark.parametrize("coupling", COUPLINGS)
def test_every_coupling_can_be_set_by_its_name_alone(recording, capsys, coupling):
    row = COUPLINGS[coupling]
    assert main(["train", "--dataset", str(recording), "--dry-run", f"--set=policy.coupling={coupling}"]) == 0
    shown = capsys.readouterr().out
    resolved = json.loads(shown[shown.index("{\n") :])
    assert (resolved["policy"]["coupling"], resolved["policy"]["imagine"]) == (coupling, row.imagine[0])
    assert [stage["name"] for stage in resolved["stages"]] == ["world", "policy"][not row.generative :]
    assert (f"world left out: coupling {coupling}" in shown) == (not row.generative)


def test_an_imagine_that_was_asked_for_is_never_changed(recording, capsys):
    given = ["--set=policy.coupling=features", "--set=policy.imagine=never"]
    assert main(["train", "--dataset", str(recording), "--dry-run", *given]) == 2
    assert "coupling = features offers imagine = always, not 'never'" in capsys.readouterr().err


def test_the_past_is_set_as_its_page_says(recording, capsys):
    given = ['--set=policy.optional_context=["past"]', "--set=policy.past_offsets=[-12, -6]"]
    assert main(["train", "--dataset", str(recording), "--dry-run", *given]) == 0
    assert '"past_offsets": [' in capsys.readouterr().out


SMALL = [f"--set=stages.{stage}.{size}" for stage in (0, 1) for size in ("samples=32", "batch_size=16")]
SMALL += ["--set=policy.width=32", "--set=policy.depth=1", "--set=policy.device=cpu"]


def test_one_command_trains_it(recording, tmp_path, capsys):
    output = tmp_path / "run"
    assert main(["train", "--dataset", str(recording), "--output", str(output), *SMALL]) == 0
    shown = capsys.readouterr().out
    for fact in ("shoulder_pan.pos", "front 640x480", "30 Hz", "held out nothing of 2 episodes"):
        assert fact in shown
    policy = output / "checkpoints" / "last" / "pretrained_model"
    saved = json.loads((policy / "config.json").read_text())
    assert saved["fps"] == 30.0
    assert saved["action_feature_names"] == list(JOINT_NAMES)
    assert "pen" in saved["lexicon"]


def test_the_policy_remembers_the_calibration_of_its_recordings(recording, tmp_path):
    assert recipe(str(recording)).policy.calibration is None
    run = tmp_path / "20261121-120000"
    shutil.copytree(recording, run / "dataset")
    (run / "identity.json").write_text(json.dumps({"calibration": "0123456789abcdef"}))
    assert recipe(str(run / "dataset")).policy.calibration == "0123456789abcdef"
    (run / "identity.json").write_text('{"calib')
    with pytest.raises(DatasetError, match=r"identity\.json: not what"):
        recipe(str(run / "dataset"))
    motors = {name: MotorCalibration(i + 1, 0, 0, 900, 3200) for i, name in enumerate(MOTORS)}
    file = run / "dataset" / "meta" / "calibration.json"  # its owner says so: this counts first
    file.write_text(json.dumps({name: motor._asdict() for name, motor in motors.items()}))
    own = Calibration.from_motors(motors, ("gripper",)).digest
    assert recipe(str(run / "dataset")).policy.calibration == own
    file.write_text("{}")
    with pytest.raises(CalibrationError, match=r"calibration\.json"):
        recipe(str(run / "dataset"))


def test_values_out_of_the_arms_reach_are_refused(tmp_path):
    root = record(tmp_path / "wrong", reach=179.0, episodes=1)
    with pytest.raises(DatasetError, match=r"shoulder_pan\.pos was commanded to .* the so101 reaches -110"):
        recipe(str(root))


def test_radians_are_refused_before_anything_is_trained(tmp_path):
    root = record(tmp_path / "radians", reach=1.9, episodes=1)
    with pytest.raises(
        DatasetError, match=r"no joint was commanded beyond ±2\.\d+, which are radians; .*degrees"
    ):
        recipe(str(root))


def test_an_unknown_arm_is_trained_and_said_to_be_unknown(tmp_path):
    names = [f"joint_{i}.pos" for i in range(4)]
    root = record(tmp_path / "other", joints=names, reach=60.0, episodes=1)
    from hybridpolicy.training.config import DatasetSource
    from hybridpolicy.training.run import read_metadata

    arm = derive_arm(read_metadata(DatasetSource(str(root))))
    assert arm.known is None
    assert "limits unchecked" in arm.describe()
    assert "do not tell" in arm.unit
    assert recipe(str(root)).policy.embodiment == "arm"


def described(**changes):
    """Metadata of an arm of two joints, as LeRobot reads it."""
    joints = {"dtype": "float32", "shape": (2,), "names": ["a.pos", "b.pos"]}
    picture = {"dtype": "image", "shape": (32, 64, 3), "names": ["height", "width", "channels"]}
    features = {"observation.images.front": picture, "observation.state": joints, "action": joints}
    values = {name: np.full(2, value) for name, value in (("min", -50.0), ("max", 50.0))}
    facts = {
        "features": features | changes.pop("features", {}),
        "camera_keys": ["observation.images.front"],
        "depth_keys": [],
        "stats": {"action": values},
        "tasks": pd.DataFrame(index=["push"]),
        "fps": 10, "robot_type": "x", "total_episodes": 1, "total_frames": 9, "root": "somewhere",
    }  # fmt: skip
    return SimpleNamespace(**(facts | changes))


def test_joints_without_names_are_not_taken_for_the_same():
    assert derive_arm(described()).state_matches_action
    nameless, wider = ({"dtype": "float32", "shape": (n,), "names": None} for n in (2, 3))
    for state in (nameless, wider, None):
        meta = described(features={"action": nameless, "observation.state": state})
        if state is None:
            del meta.features["observation.state"]
        assert not derive_arm(meta).state_matches_action


def test_pictures_are_read_however_their_axes_are_called():
    for names, shape in ((["h", "w", "c"], (32, 64, 3)), (None, (32, 64, 3)), (["channels"], (3, 32, 64))):
        meta = described(features={"observation.images.front": {"shape": shape, "names": names}})
        assert derive_arm(meta).cameras == {"observation.images.front": (32, 64)}


def test_a_dataset_that_asks_for_nothing_says_what_to_do():
    assert derive_arm(described(tasks=None)).tasks == ()
    config = HybridConfig()
    adopt_dataset(config, described(tasks=None))
    with pytest.raises(ConfigurationError, match="where nothing is asked for, set lexicon to any word"):
        build_tokenizer(config.lexicon)


def test_depth_is_not_looked_at(tmp_path):
    joints = {"dtype": "float32", "shape": (2,), "names": ["a.pos", "b.pos"]}
    axes = ["height", "width", "channels"]
    depth = {"dtype": "image", "shape": (32, 32, 1), "names": axes, "info": {"is_depth_map": True}}
    features = {
        "observation.images.depth": depth,
        "observation.images.front": {"dtype": "image", "shape": (32, 64, 3), "names": axes},
        "observation.state": joints,
        "action": joints,
    }
    root = tmp_path / "dataset"
    dataset = LeRobotDataset.create("owner/deep", 10, features, root=root, use_videos=False)
    for i in range(4):
        dataset.add_frame(
            {
                "observation.images.depth": np.full((32, 32, 1), 500 + i, np.uint16),
                "observation.images.front": np.full((32, 64, 3), i, np.uint8),
                "observation.state": np.array([i, -i], np.float32),
                "action": np.array([i, -i], np.float32),
                "task": "push",
            }
        )
    dataset.save_episode()
    dataset.finalize()
    arm = read_arm(str(root))
    assert (list(arm.cameras), arm.depth) == (["observation.images.front"], ("depth",))
    assert "front 64x32; not looked at, depth: depth" in arm.describe()
    config = recipe(str(root))
    assert config.policy.image_size == [96, 192]
    config = replace(config, policy=replace(config.policy, device="cpu", width=32, depth=1))
    policy = build_policy(config)[0]
    assert policy.config.cameras == {"front": "observation.images.front"}
    assert policy.config.state_size == policy.config.action_size == 2


def test_the_recipe_alone_says_how_to_use_it():
    with pytest.raises(ConfigurationError, match="--dataset"):
        recipe()


@pytest.mark.parametrize(
    ("camera", "size"), [((480, 640), [96, 128]), ((96, 96), [96, 96]), ((720, 1280), [96, 168])]
)
def test_image_size_keeps_the_shape(camera, size):
    assert image_size({"observation.images.front": camera}) == size


def test_the_first_weights_follow_the_seed(recording):
    config = recipe(str(recording))
    config = replace(config, policy=replace(config.policy, device="cpu", width=32, depth=1))
    weights = [
        build_policy(replace(config, seed=seed))[0].network.latent_in.weight.detach() for seed in (0, 0, 1)
    ]
    assert torch.equal(weights[0], weights[1])
    assert not torch.equal(weights[0], weights[2])


def test_of_recordings_made_task_by_task_some_of_each_task_are_held_out():
    left_out = sorted(set(range(320)) - set(seen_episodes(320)))
    assert [n // 40 for n in left_out] == [task for task in range(8) for _ in range(2)]
    rollouts = sorted(set(range(96)) - set(seen_episodes(96, HELD_OUT_ROLLOUTS)))
    assert {n // 12 for n in rollouts} == set(range(8))


@pytest.mark.parametrize(
    ("episodes", "seen"), [(1, 0), (4, 0), (5, 4), (19, 18), (39, 38), (40, 38), (1000, 950)]
)
def test_some_episodes_are_held_out_or_it_is_said_that_none_are(recording, episodes, seen):
    assert len(seen_episodes(episodes)) == seen
    said = replace(read_arm(str(recording)), episodes=episodes).describe().splitlines()[-1]
    assert (f"held out {episodes - seen} of {episodes}" in said) == bool(seen)
    assert ("nothing is measured" in said) == (seen == 0)


@pytest.fixture(scope="module")
def rollouts(tmp_path_factory):
    return record(tmp_path_factory.mktemp("owner") / "tried", reach=105.0, episodes=5, tried=True)


def test_rollouts_teach_how_tries_end_and_not_what_to_do(recording, rollouts):
    config = recipe(str(recording), rollouts=[str(rollouts)] * 3)
    demonstrated, *tried = config.stages[-1].sources
    assert config.policy.outcome_weight == 0.3
    assert (demonstrated.imitate, demonstrated.outcomes, demonstrated.weight) == (True, "", 0.7)
    assert [(s.imitate, s.outcomes, s.embodiment) for s in tried] == [(False, "recorded", "so101")] * 3
    assert sum(source.weight for source in tried) == pytest.approx(0.3)
    assert tried[0].episodes == (0, 1, 2, 3)  # the last is measured on
    plain = recipe(str(recording))
    assert (plain.policy.outcome_weight, len(plain.stages[-1].sources)) == (0.0, 1)
    assert plain.stages[0] == config.stages[0]


def test_one_command_trains_heads_and_goes_on_from_a_policy_with_heads(
    recording, rollouts, tmp_path, capsys, caplog
):
    asked = ["train", "--dataset", str(recording), "--rollouts", str(rollouts), *SMALL, "--set=log_every=1"]
    asked += ["--set=validate_every_samples=96", "--set=stages.1.samples=96"]
    asked += [f"--set=cache_dir={tmp_path}/cache"]
    assert main([*asked, "--output", str(tmp_path / "first")]) == 0
    assert f"rollouts {rollouts}: held out 1 of 5 episodes" in capsys.readouterr().out
    assert "hold no outcome.labels" not in caplog.text
    lines = [json.loads(line) for line in (tmp_path / "first/metrics.jsonl").read_text().splitlines()]
    assert any("outcome_loss" in line for line in lines)
    assert any("held_out_success_brier" in line for line in lines)
    first = tmp_path / "first/checkpoints/last/pretrained_model"
    again = ["--output", str(tmp_path / "again"), f"--set=policy.pretrained_path={first}"]
    assert main([*asked, *again]) == 0
    heads = [
        HybridPolicy.from_pretrained(folder / "checkpoints/last/pretrained_model").network.outcome
        for folder in (tmp_path / "first", tmp_path / "again")
    ]
    assert heads[0].knows("success")
    assert heads[1].labels.sum() > heads[0].labels.sum()  # it went on


def test_what_is_no_rollouts_of_these_demonstrations_is_refused(recording, rollouts, tmp_path, capsys):
    with pytest.raises(DatasetError, match=r"no column next\.success and outcome\.event, .* data collect"):
        recipe(str(recording), rollouts=[str(recording)])
    cases = (
        (lambda info: info.update(fps=10), "a rate in Hz of 10, and the demonstrations have 30"),
        (
            lambda info: info["features"]["action"]["names"].reverse(),
            r"action \['gripper\.pos'.* have \['should",
        ),
        (
            lambda info: info["features"].pop("observation.state"),
            r"observation\.state \[\], and .* have \['should",
        ),
        (
            lambda info: info["features"].pop("observation.images.wrist"),
            r"no observation\.images\.wrist, there are",
        ),
    )
    for number, (change, message) in enumerate(cases):
        root = tmp_path / str(number)
        shutil.copytree(rollouts, root)
        info = json.loads((root / "meta/info.json").read_text())
        change(info)
        (root / "meta/info.json").write_text(json.dumps(info))
        with pytest.raises(DatasetError, match=message):
            recipe(str(recording), rollouts=[str(root)])
    assert main(["train", "--recipe", "so101_twin", "--rollouts", str(rollouts)]) == 2
    assert "give these with --dataset" in capsys.readouterr().err


@pytest.mark.parametrize("saved", [False, True])
def test_a_run_that_is_interrupted_says_how_to_go_on(recording, tmp_path, capsys, monkeypatch, saved):
    output = tmp_path / "run"

    def interrupted(*_, **__):
        if saved:
            (output / "checkpoints").mkdir(parents=True)
        raise KeyboardInterrupt

    monkeypatch.setattr("hybridpolicy.training.run.train_recipe", interrupted)
    assert main(["train", "--dataset", str(recording), "--output", str(output)]) == 130
    said = f"{output}: to go on, give the same command{' and --resume' if saved else ''}\n"
    assert said in capsys.readouterr().err
