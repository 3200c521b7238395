"""What a run must remember to continue as if it had never stopped, as safetensors and JSON, never pickle."""

import json
import random
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file, save
from torch import Tensor

from hybridpolicy.errors import CheckpointError
from hybridpolicy.training.average import Weights

_TENSOR_FILES = ("weights", "average", "optimizer", "random")


@dataclass
class StageResult:
    """How a finished stage went. ended_early: by max_minutes."""

    name: str
    samples: int
    steps: int
    seconds: float
    ended_early: bool


@dataclass
class Position:
    """The next step to take, and what was counted on the way. Seconds are of training only."""

    stage: int = 0
    stage_step: int = 0
    stage_seconds: float = 0.0
    step: int = 0
    samples: int = 0
    seconds: float = 0.0
    cpu_seconds: float = 0.0  # of this process, all its threads together
    finished: list[StageResult] = field(default_factory=list)
    log_window: dict[str, list[float]] = field(default_factory=dict)  # name → [sum, count]
    log_seconds: float = 0.0


@dataclass
class TrainingState:
    """Everything under training_state/. `optimizer` is a torch optimizer's state_dict."""

    position: Position
    weights: Weights
    average: Weights
    average_updates: int
    optimizer: dict[str, Any]
    random: Weights  # per process, see `random_state`
    python_random: list[Any]

    @property
    def num_bytes(self) -> int:
        """Size of all tensors."""
        moments = [t for slots in self.optimizer["state"].values() for t in slots.values()]
        tensors = [*self.weights.values(), *self.average.values(), *moments, *self.random.values()]
        return sum(tensor.numel() * tensor.element_size() for tensor in tensors)


def random_state() -> tuple[Weights, list[Any]]:
    """States of torch's, numpy's and Python's global generators of this process."""
    _, keys, place, has_gauss, cached = np.random.get_state(legacy=True)
    states = {
        "torch": torch.get_rng_state(),
        "numpy": torch.tensor(np.append(keys.astype(np.int64), [place, has_gauss])),
        "numpy_gauss": torch.tensor([cached], dtype=torch.float64),
    }
    if torch.cuda.is_available():
        states["cuda"] = torch.cuda.get_rng_state()
    version, words, gauss = random.getstate()
    return states, [version, list(words), gauss]


def set_random_state(states: Weights, python_random: list[Any]) -> None:
    """Puts back what `random_state` gave."""
    torch.set_rng_state(states["torch"])
    numbers = states["numpy"].numpy()
    cached = float(states["numpy_gauss"])
    np.random.set_state(
        ("MT19937", numbers[:-2].astype(np.uint32), int(numbers[-2]), int(numbers[-1]), cached)
    )
    if "cuda" in states and torch.cuda.is_available():
        torch.cuda.set_rng_state(states["cuda"])
    version, words, gauss = python_random
    random.setstate((version, tuple(words), gauss))


def save_state(state: TrainingState, folder: Path) -> None:
    """Writes `state` into the new `folder`. Raises OSError when the disk fails or is full."""
    folder.mkdir()
    slots, groups = state.optimizer["state"], state.optimizer["param_groups"]
    moments = {f"{index}.{name}": tensor for index, named in slots.items() for name, tensor in named.items()}
    tensors = {
        "weights": state.weights,
        "average": state.average,
        "optimizer": moments,
        "random": state.random,
    }
    for name in _TENSOR_FILES:
        _write_tensors(folder / f"{name}.safetensors", tensors[name])
    document = {
        "position": asdict(state.position),
        "average_updates": state.average_updates,
        "optimizer_groups": groups,
        "python_random": state.python_random,
    }
    (folder / "state.json").write_text(json.dumps(document))


def _write_tensors(path: Path, tensors: Weights) -> None:
    # Serialised here and written by us: a full disk is then an OSError with its number, not a foreign text.
    path.write_bytes(save({name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}))


def load_state(folder: Path) -> TrainingState:
    """What `save_state` wrote, on the CPU.

    Raises:
        CheckpointError: a file is missing or not of this format.
    """
    try:
        document = json.loads((folder / "state.json").read_text())
        tensors = {name: load_file(folder / f"{name}.safetensors") for name in _TENSOR_FILES}
        position = Position(**document["position"])
        position.finished = [StageResult(**result) for result in document["position"]["finished"]]
        return TrainingState(
            position=position,
            weights=tensors["weights"],
            average=tensors["average"],
            average_updates=document["average_updates"],
            optimizer={
                "state": _nest(tensors["optimizer"]),
                "param_groups": document["optimizer_groups"],
            },
            random=tensors["random"],
            python_random=document["python_random"],
        )
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise CheckpointError(
            f"{folder}: not a training state of this version ({type(error).__name__}: {error}); remove this "
            "checkpoint to resume from the one before, or choose a new output_dir"
        ) from error


def _nest(moments: dict[str, Tensor]) -> dict[int, Weights]:
    nested: dict[int, Weights] = {}
    for name, tensor in moments.items():
        index, slot = name.split(".", 1)
        nested.setdefault(int(index), {})[slot] = tensor
    return nested
