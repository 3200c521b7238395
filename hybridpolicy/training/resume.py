"""Taking a run apart into a checkpoint and putting it together again."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import gather_object
from safetensors.torch import load_file
from torch import nn

from hybridpolicy.errors import CheckpointError
from hybridpolicy.training.average import WeightAverage, copy_weights, live_weights
from hybridpolicy.training.checkpoint import PRETRAINED_DIR, STATE_DIR
from hybridpolicy.training.config import RECIPE_FILE, TrainConfig, encode_recipe, save_recipe
from hybridpolicy.training.state import (
    Position,
    TrainingState,
    load_state,
    random_state,
    save_state,
    set_random_state,
)

EMBODIMENTS_DIR = "embodiments"
# What a resumed run may choose anew without changing the curve.
_FREE = {"output_dir", "cache_dir", "save_every_samples", "log_every", "keep_last"}
_FREE_OF_POLICY = {"device", "push_to_hub", "repo_id", "private", "tags", "license", "pretrained_path"}


def capture(
    position: Position, policy: nn.Module, average: WeightAverage, optimizer: Any, accelerator: Accelerator
) -> TrainingState:
    """The state of the run now. Weights share memory with the policy. Called by all processes together."""
    tensors, python_random = random_state()
    everyone = gather_object([(tensors, python_random)]) if accelerator.num_processes > 1 else []
    everyone = everyone or [(tensors, python_random)]
    return TrainingState(
        position=position,
        weights=live_weights(policy),
        average=average.weights,
        average_updates=average.num_updates,
        optimizer=optimizer.state_dict(),
        random={f"{rank}.{name}": t for rank, (named, _) in enumerate(everyone) for name, t in named.items()},
        python_random=[python for _, python in everyone],
    )


def restore(
    folder: Path, policy: nn.Module, average: WeightAverage, optimizer: Any, accelerator: Accelerator
) -> Position:
    """Puts the state in a checkpoint `folder` back; where to go on.

    The random generators continue too, unless this process did not exist then: with another number of
    processes the curve is no longer the same to the bit.

    Raises:
        CheckpointError: the state is unreadable or of another policy.
    """
    state = load_state(folder / STATE_DIR)
    copy_weights(state.weights, live_weights(policy), f"{folder}: weights")
    average.load(state.average, state.average_updates)
    _check_optimizer(folder, state.optimizer, optimizer)
    optimizer.load_state_dict(state.optimizer)
    rank = accelerator.process_index
    if len(state.python_random) == accelerator.num_processes:
        mine = {k.split(".", 1)[1]: v for k, v in state.random.items() if k.startswith(f"{rank}.")}
        set_random_state(mine, state.python_random[rank])
    return state.position


def _check_optimizer(folder: Path, saved: Mapping[str, Any], optimizer: Any) -> None:
    sizes = [
        [len(group["params"]) for group in groups]
        for groups in (saved["param_groups"], optimizer.param_groups)
    ]
    if sizes[0] != sizes[1]:
        raise CheckpointError(
            f"{folder}: its optimizer has parameter groups of {sizes[0]}, the policy has {sizes[1]}; "
            "other parts are trainable now. Resume with the recipe saved beside the checkpoint, "
            "or choose a new output_dir"
        )


def fill_checkpoint(
    folder: Path,
    config: TrainConfig,
    state: TrainingState,
    policy: Any,
    average: WeightAverage,
    processors: Sequence[Any],
) -> None:
    """Writes the exported policy (averaged weights) and the training state into the new `folder`."""
    pretrained = folder / PRETRAINED_DIR
    with average.applied():
        policy.save_pretrained(pretrained)
        _save_adapter(policy, pretrained, processors)
    for processor in processors:
        _save_processor(processor, pretrained)
    save_recipe(config, pretrained / RECIPE_FILE)
    save_state(state, folder / STATE_DIR)


def _save_adapter(policy: Any, folder: Path, processors: Sequence[Any]) -> None:
    """Beside the base, which is exported as if it had none, the adapter that was trained on it, if any."""
    tag = getattr(policy.config, "embodiment", None)
    if tag == getattr(policy, "base_embodiment", tag):
        return
    from hybridpolicy.adapters import save_adapter

    own = [each[tag] if isinstance(each, Mapping) else each for each in processors]
    save_adapter(policy, folder / EMBODIMENTS_DIR / tag, *own)


def _save_processor(processor: Any, folder: Path) -> None:
    if isinstance(processor, Mapping):
        for tag, one in processor.items():
            _save_processor(one, folder / EMBODIMENTS_DIR / tag)
    elif processor is not None:
        processor.save_pretrained(folder)


def check_same_run(folder: Path, config: TrainConfig) -> None:
    """Checks that the checkpoint in `folder` was made by the same recipe.

    Raises:
        CheckpointError: naming every setting that differs.
    """
    path = folder / PRETRAINED_DIR / RECIPE_FILE
    try:
        saved = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{path}: no readable recipe ({error}); choose a new output_dir") from error
    wanted = json.loads(json.dumps(encode_recipe(config)))
    differences = _differences(_fixed(saved), _fixed(wanted), "")
    if differences:
        raise CheckpointError(
            f"{folder.parent}: holds a run with other settings: {'; '.join(differences[:5])}. "
            "Restore them to resume, choose a new output_dir, or remove this folder to train from the start"
        )


def check_same_statistics(folder: Path, processors: Sequence[Any]) -> None:
    """Checks that the checkpoint in `folder` was trained behind the same pipelines: its network knows the
    statistics of its data, too, and converts with those.

    Raises:
        CheckpointError: naming every statistic that differs.
    """
    differing: set[str] = set()
    with TemporaryDirectory() as made:
        for processor in processors:
            _save_processor(processor, Path(made))
        for file in Path(made).rglob("*.safetensors"):
            saved = folder / PRETRAINED_DIR / file.relative_to(made)
            if saved.is_file():
                before, now = load_file(saved), load_file(file)
                names = before.keys() | now.keys()
                shared = before.keys() & now.keys()
                differing |= {n for n in names if n not in shared or not torch.equal(before[n], now[n])}
    if differing:
        raise CheckpointError(
            f"{folder}: trained with other statistics ({', '.join(sorted(differing)[:5])}): the dataset has "
            "changed since. Put it back as it was to resume, or choose a new output_dir"
        )


def _fixed(recipe: dict[str, Any]) -> dict[str, Any]:
    policy = {key: value for key, value in recipe["policy"].items() if key not in _FREE_OF_POLICY}
    return {key: value for key, value in recipe.items() if key not in _FREE} | {"policy": policy}


def _differences(saved: Any, wanted: Any, where: str) -> list[str]:
    if isinstance(saved, dict) and isinstance(wanted, dict):
        keys = sorted(saved.keys() | wanted.keys())
        return [
            d
            for key in keys
            for d in _differences(saved.get(key), wanted.get(key), f"{where}.{key}".strip("."))
        ]
    if isinstance(saved, list) and isinstance(wanted, list) and len(saved) == len(wanted):
        pairs = enumerate(zip(saved, wanted, strict=True))
        return [d for i, (a, b) in pairs for d in _differences(a, b, f"{where}[{i}]")]
    return [] if saved == wanted else [f"{where} was {saved!r}, is {wanted!r}"]
