"""Dataset statistics the policy itself needs, among them how far a chunk moves from where it starts."""

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import torch
from lerobot.configs.types import NormalizationMode
from torch import Tensor

from hybridpolicy.errors import ConfigurationError

MAX_ROWS = 200_000
RANGES = {  # which statistics become -1 and 1
    NormalizationMode.MIN_MAX: ("min", "max"),
    NormalizationMode.QUANTILES: ("q01", "q99"),
    NormalizationMode.QUANTILE10: ("q10", "q90"),
}
UNCHANGED = 1e-6  # standard deviation of a number that is always the same, but for rounding


def as_tensor(value: Any) -> Tensor:
    """Statistic as float32 tensor, whatever array type LeRobot stored."""
    return torch.as_tensor(np.asarray(value), dtype=torch.float32).flatten()


def mean_std(stats: dict[str, dict[str, Any]], key: str, size: int) -> tuple[Tensor, Tensor]:
    """(size,) mean and standard deviation of a column; 1 for a number that never changed: should it change
    later, the policy is told by how much in its own unit, and not in units of nothing.

    Raises:
        ConfigurationError: the statistics lack the column, have another size, or are not finite.
    """
    entry = stats.get(key)
    if not entry or "mean" not in entry or "std" not in entry:
        raise ConfigurationError(
            f"hybrid: no statistics for {key!r}; the dataset has them for {sorted(stats)}. Record again, or "
            "recompute them with LeRobot's dataset tools: without them inputs would pass through unnormalised"
        )
    mean, std = as_tensor(entry["mean"]), as_tensor(entry["std"])
    if mean.numel() != size:
        raise ConfigurationError(
            f"hybrid: statistics of {key!r} have {mean.numel()} numbers, the policy has {size}"
        )
    if not bool(torch.isfinite(mean).all() and torch.isfinite(std).all()):
        raise ConfigurationError(
            f"hybrid: statistics of {key!r} are not finite: mean {mean.tolist()}, std {std.tolist()}. Look "
            "for NaN in the recording, then recompute them with LeRobot's dataset tools"
        )
    return mean, torch.where(std > UNCHANGED, std, 1.0)


def normalisation(
    stats: dict[str, dict[str, Any]], key: str, size: int, mode: NormalizationMode
) -> tuple[Tensor, Tensor]:
    """(size,) what the pipeline takes off a column and what it then divides by: its mean and standard
    deviation, or the middle and half the width of the range that becomes −1 … 1.

    Raises:
        ConfigurationError: as `mean_std`; or the statistics lack what the mode needs.
    """
    mean, std = mean_std(stats, key, size)
    if mode == NormalizationMode.MEAN_STD:
        return mean, std
    if mode not in RANGES:
        return torch.zeros(size), torch.ones(size)
    missing = [name for name in RANGES[mode] if stats[key].get(name) is None]
    if missing:
        raise ConfigurationError(
            f"hybrid: {key!r} is to be normalised by {mode.value}, and its statistics have no {missing}; "
            "recompute them with LeRobot's dataset tools, or normalise by MEAN_STD"
        )
    low, high = (as_tensor(stats[key][name]) for name in RANGES[mode])
    return (high + low) / 2, torch.where(high - low > UNCHANGED, (high - low) / 2, 1.0)


def safe_statistics(stats: dict[str, dict[str, Any]], key: str, size: int) -> dict[str, Any]:
    """A column's statistics with which nothing is divided by nothing: a number that never changed in the data
    has deviation 1, and every range of it reaches 1 to both sides. Raises as `mean_std`.
    """
    _, std = mean_std(stats, key, size)
    entry = {**stats[key], "std": std.numpy()}
    for low, high in RANGES.values():
        if entry.get(low) is None or entry.get(high) is None:
            continue
        least, most = (as_tensor(entry[name]) for name in (low, high))
        constant, middle = most - least <= UNCHANGED, (least + most) / 2
        if not bool(constant.any()):
            continue
        entry[low] = torch.where(constant, middle - 1.0, least).numpy()
        entry[high] = torch.where(constant, middle + 1.0, most).numpy()
    return entry


def _columns(root: Path) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """State (N, S), action (N, A) and episode index (N,) of a LeRobotDataset's first data files."""
    states, actions, episodes, rows = [], [], [], 0
    for file in sorted((root / "data").rglob("*.parquet")):
        table = pq.read_table(file, columns=["observation.state", "action", "episode_index"])
        for name, rows_of in (("observation.state", states), ("action", actions)):
            numbers = np.stack(table[name].to_numpy(zero_copy_only=False))
            rows_of.append(numbers.reshape(len(table), -1))  # LeRobot stores a column of one as numbers
        episodes.append(table["episode_index"].to_numpy())
        rows += len(table)
        if rows >= MAX_ROWS:
            break
    if not rows:
        raise ConfigurationError(
            f"hybrid: no data files under {root / 'data'}; is this a LeRobotDataset folder?"
        )
    return np.concatenate(states), np.concatenate(actions), np.concatenate(episodes)


def relative_action_std(root: Path, chunk_size: int) -> Tensor:
    """(T, A) root mean square of action[t + i] − state[t] in physical units, over the first 200,000 frames.

    The scale of relative chunks, per step ahead: a target eight frames away is further than the next one.
    """
    state, action, episode = _columns(root)
    scale = np.zeros((chunk_size, action.shape[1]), np.float32)
    for ahead in range(chunk_size):
        count = len(action) - ahead
        if count <= 0:
            scale[ahead] = scale[ahead - 1]
            continue
        same = episode[ahead:] == episode[:count]
        delta = action[ahead:][same] - state[:count][same][:, : action.shape[1]]
        scale[ahead] = np.sqrt(np.mean(delta**2, axis=0)) if len(delta) else scale[ahead - 1]
    return torch.from_numpy(np.maximum(scale, 1e-3))
