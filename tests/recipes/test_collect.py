"""A policy's rollouts in any LeRobot environment: what is recorded is what happened; heads learn from it."""

import dataclasses
import json
import os

import gymnasium
import numpy as np
import pyarrow.parquet as pq
import pytest
from lerobot.configs.types import FeatureType, PolicyFeature
from lerobot.datasets import LeRobotDataset
from lerobot.envs.configs import EnvConfig

from embodiments.metaworld.recording import ACTION_NAMES, ROBOT_TYPE, STATE_NAMES, record_metaworld
from embodiments.metaworld.rendering import FrameRenderer, RenderSettings
from embodiments.metaworld.simulation import MetaworldSimulation
from embodiments.metaworld.tasks import TRAIN_SEED_BASE, TRAIN_SEEDS_PER_RUN, task_description
from embodiments.so101.twin import shards
from hybridpolicy import outcome_schema as schema
from hybridpolicy.configuration_hybrid import HybridConfig
from hybridpolicy.errors import CheckpointError, ConfigurationError
from hybridpolicy.evaluation.acting import Actor
from hybridpolicy.evaluation.closed_loop import shares
from hybridpolicy.training.config import DatasetSource, StageConfig, TrainConfig
from hybridpolicy.training.metrics import read_metrics
from hybridpolicy.training.run import read_metadata, train_recipe
from recipes import collect as collecting
from recipes.collect import FACTS, MAX_SEED, SCENES_PER_SEED, CollectSettings, collect
from recipes.collect_dataset import robot_type
from recipes.commands import main
from recipes.own_data import describe_rollouts, read_rollouts

TASKS = ("reach-v3", "push-v3")
SHORT = {"episode_length": 4, "image_size": 32}
SETTINGS = CollectSettings("hybrid_metaworld", 3, seed=2, tasks=TASKS, noise=0.5, environment=SHORT)
SAWYER = {
    "states": STATE_NAMES, "actions": ACTION_NAMES, "mean": [0.0, 0.6, 0.2, 0.5], "cameras": ("corner2",),
    "embodiment": ROBOT_TYPE, "fps": 16.0, "action_convention": "absolute",
}  # fmt: skip


@pytest.fixture(scope="module")
def sawyer(make_policy_folder):
    """The folder of an untrained policy of Meta-World's arm."""
    return make_policy_folder(**SAWYER)


@pytest.fixture(scope="module")
def collected(sawyer, tmp_path_factory):
    """(folder, what its collection.json holds, what progress heard, what the environment was sent)."""
    root, calls, sent = tmp_path_factory.mktemp("own") / "tries", [], []
    step = MetaworldSimulation.step

    def listening(simulation, action, *rest, **options):
        sent.append((simulation.task, np.array(action)))
        return step(simulation, action, *rest, **options)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(MetaworldSimulation, "step", listening)
        patch.setattr(collecting, "MOST_TABLES", 2)  # one table a task: two batches of the first one
        found = collect(Actor.load(sawyer), root, SETTINGS, facts={"policy": "p"},
                        progress=lambda done, total: calls.append((done, total)))  # fmt: skip
    return root, found, calls, sent


@pytest.fixture(scope="module")
def episodes(collected):
    """The dataset and the frames of each episode: [{column: (L, …)}]."""
    dataset = LeRobotDataset("local/tries", root=collected[0], video_backend="pyav")
    table = dataset.hf_dataset.with_format("numpy")
    columns = {name: np.asarray(table[name]) for name in table.column_names}
    of = columns["episode_index"]
    return dataset, [{name: c[of == e] for name, c in columns.items()} for e in range(dataset.num_episodes)]


def test_everything_is_kept_and_counted(collected, episodes):
    root, found, calls, _ = collected
    dataset, played = episodes
    assert os.listdir(root.parent) == ["tries"]
    assert json.loads((root / FACTS).read_text()) == json.loads(json.dumps(found))
    assert (found["policy"], found["planning"]) == ("p", None)
    assert found["settings"] == dataclasses.asdict(SETTINGS)
    assert (dataset.num_episodes, dataset.num_frames) == (3, 12) == (3, found["frames"])
    assert {task: row["episodes"] for task, row in found["by_family"].items()} == {TASKS[0]: 2, TASKS[1]: 1}
    assert found["success"]["failures"] == 3
    assert found["success"]["high"] > 0.5
    assert calls[-1] == (3, 3)
    assert [done for done, _ in calls] == sorted(done for done, _ in calls)
    texts = [dataset.meta.tasks.index[int(episode["task_index"][0])] for episode in played]
    assert texts == [task_description(task) for task in (TASKS[0], *TASKS)]


def test_columns_are_those_of_demonstrations(episodes):
    meta = episodes[0].meta
    assert (meta.fps, meta.robot_type) == (16, ROBOT_TYPE)
    assert meta.camera_keys == ["observation.images.corner2"]
    assert meta.features["observation.state"]["names"] == list(STATE_NAMES)
    assert meta.features["action"]["names"] == list(ACTION_NAMES)
    assert set(schema.outcome_features()) < set(meta.features)


def test_what_is_recorded_is_what_was_seen_and_sent(collected, episodes):
    """Scene by scene: the actions repeat the episode, pictures and states are those before each."""
    dataset, played = episodes
    sent = [action for _, action in collected[3]]
    recorded = np.concatenate([episode["action"] for episode in played])
    np.testing.assert_array_equal(recorded, np.stack(sent))
    assert np.abs(recorded).max() == 1.0  # what went beyond was clipped, and recorded so
    renderer = FrameRenderer(RenderSettings(32))
    errors = []
    for number, (episode, task) in enumerate(zip(played, (TASKS[0], *TASKS), strict=True)):
        simulation = MetaworldSimulation(task)
        simulation.reset(SETTINGS.first_scene + number)
        for frame, action in enumerate(episode["action"]):
            np.testing.assert_array_equal(simulation.agent_pos, episode["observation.state"][frame])
            seen = dataset[int(episode["index"][frame])]["observation.images.corner2"].numpy()
            truth = renderer.frame(simulation).transpose(2, 0, 1) / 255.0
            errors.append(float(np.mean((seen - truth) ** 2)))
            simulation.step(action, 5)
    assert len(errors) == 12
    assert max(errors) < 10 ** (-30 / 10)


def test_a_failure_says_how_it_ended(episodes):
    for episode in episodes[1]:
        np.testing.assert_array_equal(episode[schema.DONE].ravel(), [False, False, False, True])
        assert [str(r) for r in episode[schema.STOP_REASON].ravel()] == ["", "", "", "time limit"]
        for name in (schema.SUCCESS, schema.INTERVENTION, schema.EVENT, schema.IMAGINED):
            assert not episode[name].any(), name


def test_noise_moves_a_plan_as_a_whole_and_repeats(sawyer, tmp_path):
    settings = dataclasses.replace(SETTINGS, episodes=1, tasks=TASKS[:1], noise=0.01)
    actions = {}
    for name, changed in (("a", settings), ("b", settings), ("c", dataclasses.replace(settings, noise=0.0))):
        collect(Actor.load(sawyer), tmp_path / name, changed)
        table = pq.read_table(tmp_path / name / "data/chunk-000/file-000.parquet", columns=["action"])
        actions[name] = np.array(table["action"].to_pylist())
    np.testing.assert_array_equal(actions["a"], actions["b"])
    moved = (actions["a"] - actions["c"])[:2]  # of the first plan, made of the same look
    np.testing.assert_allclose(moved[0], moved[1], atol=1e-6)
    assert 0.0 < np.abs(moved).max() < 0.06


class Felt(gymnasium.Env):
    """An arm that feels. It succeeds in its second step, ends in its third or first, or runs out of time."""

    observation_space = gymnasium.spaces.Dict(
        {
            "pixels": gymnasium.spaces.Dict({"eye": gymnasium.spaces.Box(0, 255, (32, 32, 3), np.uint8)}),
            "agent_pos": gymnasium.spaces.Box(-200, 200, (6,), np.float32),
            "force": gymnasium.spaces.Box(-1, 1, (2,), np.float32),
        }
    )
    action_space = gymnasium.spaces.Box(-200, 200, (6,), np.float32)
    _max_episode_steps = 4

    def _now(self):
        return {name: space.sample() for name, space in self.observation_space.items()}

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.kind, self.steps = (seed or 0) % 4, 0
        return self._now(), {"is_success": False}

    def step(self, action):
        self.steps += 1
        won = self.kind == 0 and self.steps == 2
        gave_up = (self.kind == 1 and self.steps == 3) or self.kind == 3
        return self._now(), float(won), gave_up, self.steps == 4, {"is_success": won}


@EnvConfig.register_subclass("felt_arm")
@dataclasses.dataclass
class FeltConfig(EnvConfig):
    fps: int = 10
    task: str | None = None
    installed: bool = True
    sees: bool = True
    features: dict = dataclasses.field(default_factory=dict)
    features_map: dict = dataclasses.field(default_factory=lambda: {"pixels/eye": "observation.images.front"})

    @property
    def gym_kwargs(self):
        return {}

    def create_envs(self, n_envs, use_async_envs=False):
        if not self.installed:
            raise ModuleNotFoundError("Package 'gym_felt' required")
        mode = gymnasium.vector.AutoresetMode.SAME_STEP  # as LeRobot makes its own
        made = gymnasium.vector.SyncVectorEnv([Felt] * n_envs, autoreset_mode=mode)
        if not self.sees:
            made.single_observation_space = gymnasium.spaces.Dict(
                {"agent_pos": Felt.observation_space["force"]}
            )
        return {"felt_arm": {0: made}}


@pytest.fixture(scope="module")
def feeling(make_policy_folder):
    """The folder of an untrained policy with one camera that is given forces, its embodiment unknown."""
    return make_policy_folder(
        cameras=("front",),
        embodiment="arm",
        optional_context=["force"],
        columns={"observation.force": PolicyFeature(FeatureType.STATE, (2,))},
    )


def test_successes_other_ends_and_named_columns_are_told_apart(feeling, tmp_path, monkeypatch):
    """A success ends the episode even where the environment goes on, and what comes after is not recorded."""
    root = tmp_path / "felt"
    found = collect(Actor.load(feeling), root, CollectSettings("felt_arm", 8))
    assert found["by_family"] == {"task": found["success"]}
    assert (found["success"]["rate"], found["success"]["failures"]) == (pytest.approx(1 / 3), 4)
    table = pq.read_table(root / "data/chunk-000/file-000.parquet").to_pydict()
    assert collecting.COLLECTION_SEEDS % 4 == 0
    expected = [("success", 2), ("terminated", 3), ("time limit", 4)] * 2
    assert (found["left_out"], found["success"]["episodes"]) == (2, 6)  # those of one frame
    lengths = np.bincount(table["episode_index"])
    ends = np.cumsum(lengths) - 1
    assert [(table[schema.STOP_REASON][e], n) for e, n in zip(ends, lengths, strict=True)] == expected
    assert [table[schema.SUCCESS][e] for e in ends] == [reason == "success" for reason, _ in expected]
    assert sum(table[schema.SUCCESS]) == 2
    assert np.abs(np.array(table["observation.force"])).max() <= 1.0
    info = json.loads((root / "meta/info.json").read_text())
    assert info["features"]["observation.force"]["shape"] == [2]
    assert info["robot_type"] is None
    monkeypatch.setattr(collecting, "FEWEST_FRAMES", 5)
    with pytest.raises(ConfigurationError, match="each of 2 episodes ended in"):
        collect(Actor.load(feeling), tmp_path / "none", CollectSettings("felt_arm", 2))
    assert os.listdir(tmp_path) == ["felt"]


def test_tags_name_the_robot_of_demonstrations():
    assert robot_type("so101") == "so_follower"
    assert robot_type(ROBOT_TYPE) == ROBOT_TYPE
    assert robot_type(HybridConfig().embodiment) is None


def test_scenes_are_nobody_elses():
    first = CollectSettings("hybrid_metaworld", 1).first_scene
    assert first > 1_000_000 + SCENES_PER_SEED  # evaluation
    assert first > TRAIN_SEED_BASE + 1_000 * TRAIN_SEEDS_PER_RUN
    assert first == shards.COLLECTION_SEEDS
    last = CollectSettings("hybrid_metaworld", SCENES_PER_SEED, seed=MAX_SEED)
    assert last.first_scene + last.episodes == shards.DEMONSTRATION_SEEDS == collecting.LAST_SEED
    assert last.first_scene == first + MAX_SEED * SCENES_PER_SEED


def test_episodes_are_shared_out_and_memory_is_kept(sawyer, monkeypatch):
    assert shares(7, 3) == [3, 2, 2]
    monkeypatch.setattr(collecting, "KEPT_BYTES", 4 * 32 * 32 * 3 * 5)  # of 4 steps, so 5 tables
    config = SETTINGS.configuration()
    for episodes, tasks, tables in ((40, 2, 5), (3, 2, 2), (1, 1, 1)):
        asked = dataclasses.replace(SETTINGS, episodes=episodes)
        made = collecting._open(Actor.load(sawyer), config, asked)
        assert (len(made), made[0].num_envs) == (tasks, tables)
        collecting._close(made)


def test_nothing_half_written_is_left(sawyer, tmp_path, monkeypatch):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(LeRobotDataset, "save_episode", _disk_full)  # frames are in the encoder by then
        with pytest.raises(OSError, match="No space left"):
            collect(Actor.load(sawyer), tmp_path / "half", dataclasses.replace(SETTINGS, episodes=1))
    assert os.listdir(tmp_path) == []
    told = []

    def stop(done, total):
        told.append(os.listdir(tmp_path))
        if done == 2:
            raise KeyboardInterrupt

    monkeypatch.setattr(collecting, "MOST_TABLES", 2)
    with pytest.raises(KeyboardInterrupt):
        collect(Actor.load(sawyer), tmp_path / "half", SETTINGS, progress=stop)
    assert [f".half.{os.getpid()}.partial"] in told  # an episode was written, and not under its name
    assert os.listdir(tmp_path) == []


def _disk_full(*_, **__):
    raise OSError(28, "No space left on device")


def test_what_does_not_fit_is_refused(sawyer, feeling, make_policy_folder, tmp_path):
    diverged = Actor.load(sawyer)
    diverged.next_action = lambda: np.full((2, 4), np.nan, np.float32)
    cases = (
        (sawyer, {"env": "hybrid_metawold"}, "did you mean 'hybrid_metaworld'.* allowed are .*so101_twin"),
        (sawyer, {"environment": {"action_repeat": 8}}, "trained at 16 Hz and is asked to run at 10 Hz"),
        (sawyer, {"noise": 3.0}, r"from -1 to 1, and noise = 3; allowed 0 … 1"),
        (feeling, {"env": "felt_arm", "environment": {"installed": False}}, "'felt_arm': Package 'gym_felt'"),
        (feeling, {"env": "felt_arm", "environment": {"sees": False}}, r"shows \['agent_pos'\]; a policy is"),
        (make_policy_folder(fps=16.0), {}, r"has the state .*\(4,\).* the policy 6 numbers \(\['shoulder"),
        (
            make_policy_folder(**SAWYER | {"cameras": ("front",)}),
            {},
            r"through cameras \['front'\], the environment has \['corner2'\]",
        ),
        (diverged, {}, r"action \[nan .* is not finite; its training diverged"),
    )
    for policy, changed, message in cases:
        actor = policy if isinstance(policy, Actor) else Actor.load(policy)
        settings = {"tasks": (), "environment": {}} if "env" in changed else {}
        settings = dataclasses.replace(SETTINGS, **settings | {"episodes": 3} | changed)
        with pytest.raises((ConfigurationError, CheckpointError), match=message):
            collect(actor, tmp_path / "x", settings)
    for wrong, message in (
        ({"episodes": 0}, "episodes = 0; allowed 1"),
        ({"seed": MAX_SEED + 1}, f"seed = {MAX_SEED + 1}; allowed 0 … {MAX_SEED}"),
        ({"noise": -1.0}, "noise = -1; allowed are 0 and more"),
        ({"noise": float("nan")}, "noise = nan; allowed"),
    ):
        with pytest.raises(ConfigurationError, match=message):
            dataclasses.replace(SETTINGS, **wrong)
    assert os.listdir(tmp_path) == []


def test_heads_train_on_it_beside_demonstrations(collected, tmp_path):
    demonstrations = tmp_path / "demonstrations"
    record_metaworld(demonstrations, TASKS[:1], 1)
    tried = read_rollouts(str(collected[0]), read_metadata(DatasetSource(str(demonstrations))))
    assert (tried.imitate, tried.outcomes) == (False, "recorded")
    assert "held out nothing of 3 episodes" in describe_rollouts(str(collected[0]))
    policy = HybridConfig(
        device="cpu", embodiment=ROBOT_TYPE, fps=16.0, width=32, depth=1, frame_channels=16, chunk_size=4,
        n_action_steps=1, world_offsets=[2, 4], rtc_max_delay=2, image_size=[32, 32], num_keypoints=8,
        action_convention="absolute", outcome_weight=1.0, rtc_share=0.0,
    )  # fmt: skip
    sources = [
        DatasetSource(str(demonstrations), embodiment=ROBOT_TYPE),
        dataclasses.replace(tried, embodiment=ROBOT_TYPE),
    ]
    config = TrainConfig(
        "heads", policy, [StageConfig("policy", samples=32, batch_size=8, lr=1e-3, sources=sources)],
        output_dir=str(tmp_path / "run"), cache_dir=str(tmp_path / "cache"), log_every=1,
    )  # fmt: skip
    summary = train_recipe(config)
    assert any("outcome_loss" in line for line in read_metrics(summary.metrics))
    heads = Actor.load(summary.policy_path).policy.network.outcome
    assert heads.trained
    assert not heads.knows("risk")  # nothing ever happened there


def test_the_command_records_and_refuses(make_policy_folder, tmp_path, capsys):
    folder = make_policy_folder(**SAWYER, action_law="flow", action_steps=2, outcome_weight=1.0)
    asked = ["data", "collect", "--policy", folder, "--episodes", "2", "--output", str(tmp_path / "t")]
    there = ["--env", "hybrid_metaworld", "--tasks", "reach-v3"]
    assert main([*asked, "--env", "metawold"]) == 2
    assert "environment type 'metawold': did you mean 'metaworld'?" in capsys.readouterr().err
    assert main([*asked, *there[:2], "--tasks", "reach"]) == 2
    assert "unknown task 'reach'" in capsys.readouterr().err
    assert main([*asked, *there, "--planner-k", "2", "--gate"]) == 2
    assert "--gate is of the SO-101" in capsys.readouterr().err
    assert main([*asked, *there, "--env-set", "action_repeat=3"]) == 2
    assert "action_repeat=3 must divide the 80 Hz" in capsys.readouterr().err
    assert main([*asked, "--env", "so101_twin", "--env-set", "image_size=64"]) == 2
    assert "--env-set image_size=64: so101_twin is played here as it was recorded" in capsys.readouterr().err
    assert os.listdir(tmp_path) == []
    options = ["--planner-k", "2", "--noise", "0.1", "--seed", "1", "--env-set", "episode_length=4"]
    assert main([*asked, *there, *options]) == 0
    shown = capsys.readouterr().out
    assert "reach-v3" in shown
    assert "2 failures" in shown
    assert "8 frames; this environment tells of no events: for heads trained on them, risk stays" in shown
    facts = json.loads((tmp_path / "t" / FACTS).read_text())
    assert facts["planner"]["candidates"] == 2
    assert facts["planning"]["mean_candidates"] == 2.0
    assert facts["settings"] == {
        "env": "hybrid_metaworld", "episodes": 2, "seed": 1, "tasks": ["reach-v3"], "noise": 0.1,
        "environment": {"episode_length": 4},
    }  # fmt: skip
    flags = pq.read_table(tmp_path / "t/data/chunk-000/file-000.parquet", columns=[schema.IMAGINED])
    assert all(flags[schema.IMAGINED].to_pylist())  # a planner imagines every candidate
