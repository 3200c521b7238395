"""A policy of a few hundred weights, datasets of a few dozen frames, and runs that kill themselves.

A module of its own, not a conftest: processes started by the tests import it.
"""

import os
import signal
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from lerobot.configs import RGBEncoderConfig
from lerobot.configs.policies import PreTrainedConfig
from lerobot.configs.types import FeatureType, NormalizationMode, PolicyFeature
from lerobot.datasets import LeRobotDataset
from lerobot.datasets.dataset_metadata import LeRobotDatasetMetadata
from lerobot.policies.pretrained import PreTrainedPolicy
from lerobot.processor import make_default_pre_post_processors
from torch import nn

from hybridpolicy.training import trainer as trainer_module
from hybridpolicy.training.checkpoint import CheckpointStore
from hybridpolicy.training.config import DatasetSource, StageConfig, TrainConfig
from hybridpolicy.training.trainer import Trainer

CAMERAS = ("observation.images.front", "observation.images.wrist")
SIZE = 32
STATE = 3
LENGTHS = (12, 5, 16, 9)
FPS = 10


@PreTrainedConfig.register_subclass("tiny_training")
@dataclass
class TinyConfig(PreTrainedConfig):
    dropout: float = 0.0
    normalization_mapping: dict[str, NormalizationMode] = field(
        default_factory=lambda: {
            "VISUAL": NormalizationMode.IDENTITY,
            "STATE": NormalizationMode.MEAN_STD,
            "ACTION": NormalizationMode.MEAN_STD,
        }
    )

    observation_delta_indices = (0, 2, 4)
    action_delta_indices = (0, 1, 2, 3)
    reward_delta_indices = None

    def get_optimizer_preset(self):
        raise NotImplementedError

    def get_scheduler_preset(self):
        raise NotImplementedError

    def validate_features(self):
        pass


class TinyPolicy(PreTrainedPolicy):
    """Actions from pooled colours and the state; with future frames, their colours too."""

    config_class = TinyConfig
    name = "tiny_training"

    def __init__(self, config, **_):
        super().__init__(config)
        colours = 3 * len(config.image_features)
        self.trunk = nn.Linear(colours, 16)
        self.dropout = nn.Dropout(config.dropout)
        self.act = nn.Linear(16 + STATE, 4 * STATE)
        self.imagine = nn.Linear(16, 2 * colours)
        self.register_buffer("train_step", torch.zeros((), dtype=torch.int64))

    def get_optim_params(self):
        return [
            {"name": "trunk", "params": list(self.trunk.parameters()), "lr_scale": 0.5},
            {
                "name": "heads",
                "params": [*self.act.parameters(), *self.imagine.parameters()],
                "lr_scale": 1.0,
            },
        ]

    def needs_future(self, step):
        return step % 3 == 0

    def forward(self, batch):
        colours = [batch[key].float().mean((-1, -2)) / 255 for key in sorted(self.config.image_features)]
        colours = torch.cat(colours, -1)
        hidden = self.dropout(torch.tanh(self.trunk(colours[:, 0])))
        loss, parts = hidden.new_zeros(()), {}
        if "action" in batch:
            chunk = self.act(torch.cat([hidden, batch["observation.state"][:, 0]], -1))
            loss = (chunk - batch["action"].flatten(1)).square().mean()
            parts["action_loss"] = loss.item()
        if colours.shape[1] > 1:
            world = (self.imagine(hidden) - colours[:, 1:].flatten(1)).square().mean()
            loss, parts["world_loss"] = loss + world, world.item()
        return loss, parts

    def update(self):
        self.train_step += 1

    def reset(self):
        pass

    def predict_action_chunk(self, batch):
        raise NotImplementedError

    def select_action(self, batch):
        raise NotImplementedError


def make_dataset(
    root, dtype="video", lengths=LENGTHS, seed=0, vcodec="h264", file_mb=None, objects=True, columns=()
):
    """A dataset whose every frame, state and action differs from every other.

    columns: further (name, size) columns.
    """
    image = {"dtype": dtype, "shape": (SIZE, SIZE, 3), "names": ["height", "width", "channels"]}
    joints = {"dtype": "float32", "shape": (STATE,), "names": ["a.pos", "b.pos", "gripper.pos"]}
    features = {name: dict(image) for name in CAMERAS}
    features |= {"observation.state": joints, "action": dict(joints)}
    sizes = {"observation.state": STATE, "action": STATE}
    if objects:
        sizes["privileged.objects"] = 4
        features["privileged.objects"] = {
            "dtype": "float32",
            "shape": (4,),
            "names": ["x0", "y0", "x1", "y1"],
        }
    for name, size in columns:
        sizes[name] = size
        features[name] = {"dtype": "float32", "shape": (size,), "names": [f"n{i}" for i in range(size)]}
    dataset = LeRobotDataset.create(
        "local/tiny",
        FPS,
        features,
        root=root,
        robot_type="so_follower",
        use_videos=dtype == "video",
        rgb_encoder=RGBEncoderConfig(vcodec=vcodec),
        video_files_size_in_mb=file_mb,
    )
    rng = np.random.default_rng(seed)
    grid = np.add.outer(np.arange(SIZE), 2 * np.arange(SIZE))[..., None]
    for episode, length in enumerate(lengths):
        for i in range(length):
            frame = {
                name: ((grid + rng.integers(0, 200, 3) + 7 * i + 31 * episode) % 256).astype(np.uint8)
                for name in CAMERAS
            }
            for name, size in sizes.items():
                frame[name] = rng.normal(size=size).astype(np.float32)
            dataset.add_frame(frame | {"task": f"task {episode % 2}"})
        dataset.save_episode()
    dataset.finalize()
    return Path(root)


def make_trainer(root, output_dir, *, dropout=0.0, progress=None, held_out=0, **changes):
    """A run of two stages, action-free then labelled, small enough for a second.

    held_out: number of last episodes that the labelled source leaves out.
    """
    torch.manual_seed(0)
    meta = LeRobotDatasetMetadata(root.name, root=root)
    visual = {name: PolicyFeature(FeatureType.VISUAL, (3, SIZE, SIZE)) for name in CAMERAS}
    config = TinyConfig(
        device="cpu",
        dropout=dropout,
        input_features=visual | {"observation.state": PolicyFeature(FeatureType.STATE, (STATE,))},
        output_features={"action": PolicyFeature(FeatureType.ACTION, (STATE,))},
    )
    seen = tuple(range(meta.total_episodes - held_out)) if held_out else ()
    labelled = DatasetSource(str(root), episodes=seen)
    video = DatasetSource(str(root), drop=("action", "observation.state", "task"))
    settings = {
        "name": "tiny",
        "policy": config,
        "stages": [
            StageConfig("video", samples=40, batch_size=8, lr=1e-2, sources=[video]),
            StageConfig("act", samples=120, batch_size=8, lr=1e-2, sources=[labelled, video]),
        ],
        "output_dir": str(output_dir),
        "cache_dir": str(Path(root).parent / "cache"),
        "save_every_samples": 48,
        "log_every": 3,
        "ema_decay": 0.9,
    }
    processors = make_default_pre_post_processors(config, meta.stats)
    return Trainer(TrainConfig(**(settings | changes)), TinyPolicy(config), *processors, progress)


def kill_self(*_, **__):
    os.kill(os.getpid(), signal.SIGKILL)


def train_in_process(root, output_dir, die=None):
    """A whole run; `die` kills this process: ("log", samples) at a log line, or at the n-th checkpoint
    ("fill", n) while its files are written, ("rename", n) before or ("link", n) just after it is renamed."""
    torch.set_num_threads(1)
    moment, number = die or ("never", 0)

    def progress(event):
        if moment == "log" and event.activity != "decoding frames" and event.done >= number:
            kill_self()

    replaced = {
        "fill": (trainer_module, "fill_checkpoint"),
        "rename": (CheckpointStore, "_put_in_place"),
        "link": (CheckpointStore, "_point_last_to"),
    }
    if moment in replaced:
        owner, name = replaced[moment]
        real, calls = getattr(owner, name), []

        def dying(*args):
            calls.append(1)
            if moment == "fill" and len(calls) == number:
                (args[0] / "half_written.bin").write_bytes(b"0" * 1000)
            return kill_self() if len(calls) == number else real(*args)

        setattr(owner, name, dying)
    validated = {"held_out": 1, "validate_every_samples": 30}
    make_trainer(root, output_dir, dropout=0.2, progress=progress, **validated).run()


def train_as_one_of(rank, num_processes, port, root, output_dir):
    """One of several processes of a run, started as `accelerate launch` starts them."""
    torch.set_num_threads(1)
    os.environ.update(
        RANK=str(rank),
        LOCAL_RANK=str(rank),
        WORLD_SIZE=str(num_processes),
        MASTER_ADDR="127.0.0.1",
        MASTER_PORT=str(port),
        ACCELERATE_USE_CPU="true",
    )
    make_trainer(root, output_dir).run()
    if num_processes > 1:
        torch.distributed.destroy_process_group()
