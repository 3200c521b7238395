"""What belongs to one arm inside the network: projectors, action convention, statistics.

Legend: B batch, T chunk, S state size, A action size, D width.
"""

from typing import Any

import torch
from lerobot.configs.types import NormalizationMode
from torch import Tensor, nn

from hybridpolicy.configuration_hybrid import HybridConfig
from hybridpolicy.errors import ConfigurationError, DatasetError
from hybridpolicy.optional_keys import QUALITY
from hybridpolicy.statistics import mean_std, normalisation


class Embodiment(nn.Module):
    """Projectors of one arm and the convention in which its chunks are predicted.

    With `absolute`, the network predicts actions as the pipeline normalises them. With `relative`, it
    predicts action − state at chunk time, scaled by what such differences measure in the data; the
    conversion happens here, against the state the chunk was planned from, never against a newer one.
    """

    def __init__(self, config: HybridConfig) -> None:
        super().__init__()
        width, states, actions = config.width, config.state_size, config.action_size
        self._modes = dict(config.normalization_mapping)
        self.relative = config.action_convention == "relative"
        if self.relative and not same_joints(config):
            raise ConfigurationError(
                "hybrid: action_convention = relative needs an action that names the joints of the state in "
                f"the same order; action has {config.action_feature_names}, state has "
                f"{config.state_feature_names}. Use action_convention = absolute"
            )
        if states:
            self.state_in = nn.Linear(states, width)
            self.state_future_in = nn.Linear(states, width)
            self.state_change = nn.Parameter(torch.zeros(width, states))
            self.state_future_out = nn.Linear(width, states)
            if config.waypoint_weight > 0:
                moments = len(config.waypoint_offsets)
                self.waypoints_out = nn.Linear(config.asked_size + states, moments * states)
        self.action_in = nn.Linear(actions, width)
        self.action_out = nn.Linear(width, actions)
        self.action_mask = nn.Parameter(torch.zeros(actions))
        for name, size in (("state", states), ("action", actions)):
            self.register_buffer(f"{name}_mean", torch.full((size,), torch.nan))
            self.register_buffer(f"{name}_std", torch.full((size,), torch.nan))
        self.register_buffer("relative_std", torch.full((config.chunk_size, actions), torch.nan))
        vectors = config.vectors
        foretold = [v for v in vectors if v.foretold]
        self.vectors_in = nn.ModuleDict({v.name: nn.Linear(v.size, width) for v in vectors})
        self.vectors_future_in = nn.ModuleDict({v.name: nn.Linear(v.size, width) for v in foretold})
        self.vectors_change = nn.ParameterDict(
            {v.name: nn.Parameter(torch.zeros(width, v.size)) for v in foretold}
        )
        self.vectors_future_out = nn.ModuleDict({v.name: nn.Linear(width, v.size) for v in foretold})
        for out in self.vectors_future_out.values():  # it begins with copying
            nn.init.zeros_(out.weight)
            nn.init.zeros_(out.bias)
        self._quality = next((v for v in vectors if v.entry == QUALITY), None)
        if self._quality:
            self.register_buffer("quality_scale", torch.full((2,), torch.nan))  # mean, deviation

    @torch.no_grad()
    def set_statistics(self, stats: dict[str, dict[str, Any]], relative_std: Tensor | None) -> None:
        """Stores the pipeline's statistics, what it takes off as means and what it divides by as deviations;
        `relative_std` (T, A) in physical units.
        """
        if self.state_mean.numel():
            mode = self._modes.get("STATE", NormalizationMode.IDENTITY)
            mean, std = normalisation(stats, "observation.state", self.state_mean.numel(), mode)
            self.state_mean.copy_(mean)
            self.state_std.copy_(std)
        mode = self._modes.get("ACTION", NormalizationMode.IDENTITY)
        mean, std = normalisation(stats, "action", self.action_mean.numel(), mode)
        self.action_mean.copy_(mean)
        self.action_std.copy_(std)
        if self._quality:
            self.quality_scale.copy_(torch.cat(mean_std(stats, self._quality.key, 1)))
        if relative_std is not None:
            self.relative_std.copy_(relative_std)

    def check_statistics(self) -> None:
        """Raises `ConfigurationError` if training or inference would run without statistics."""
        needed = [self.action_mean] + [self.relative_std] * self.relative
        needed += [self.quality_scale] if self._quality else []
        if any(bool(torch.isnan(buffer).any()) for buffer in needed):
            raise ConfigurationError(
                "hybrid: the policy has no dataset statistics; build it with dataset_stats (and dataset_meta "
                "for relative actions), as LeRobot's make_policy does, or load a trained checkpoint"
            )

    def _reference(self, state: Tensor | None) -> Tensor:
        """Normalised state (B, S) → the same posture in physical units of the action, (B, 1, A)."""
        if state is None:
            raise DatasetError(
                "hybrid: action_convention = relative and the batch has no observation.state to be relative "
                "to; give the state, or train with action_convention = absolute"
            )
        physical = self.denormalise_state(state)
        return physical[:, : self.action_mean.numel()].unsqueeze(1)

    def read_waypoints(self, asked: Tensor, state: Tensor) -> Tensor:
        """What the goal readout found (B, V·P, F), state now (B, S) → states at the waypoints, (B, n, S)."""
        found = self.waypoints_out(torch.cat((asked.flatten(1), state), dim=1))
        return found.unflatten(1, (-1, state.shape[1]))

    def normalise_state(self, physical: Tensor) -> Tensor:
        """(…, S) physical units → as the pipeline normalises states."""
        return (physical - self.state_mean) / (self.state_std + 1e-8)

    def to_physical(self, chunk: Tensor, state: Tensor | None) -> tuple[Tensor, Tensor | None]:
        """Network-convention chunk (B, T, A) and normalised state (B, S) → both in physical units."""
        action = self.to_pipeline(chunk, state) * (self.action_std + 1e-8) + self.action_mean
        return action, None if state is None else self.denormalise_state(state)

    def from_physical(self, action: Tensor, state: Tensor | None) -> Tensor:
        """Physical actions (B, T', A), normalised state (B, S) at chunk time → the network's convention."""
        return self.to_network((action - self.action_mean) / (self.action_std + 1e-8), state)

    def denormalise_state(self, state: Tensor) -> Tensor:
        """The inverse of `normalise_state`."""
        return state * (self.state_std + 1e-8) + self.state_mean

    def normalise_quality(self, quality: float) -> Tensor:
        """A quality in the units of its column → as the pipeline normalises it, a scalar."""
        mean, std = self.quality_scale
        return (quality - mean) / (std + 1e-8)

    def to_network(self, action: Tensor, state: Tensor | None) -> Tensor:
        """Pipeline-normalised actions (B, T', A), state (B, S) at chunk time → what the network predicts.

        Raises:
            DatasetError: relative, and there is no state.
        """
        if not self.relative:
            return action
        physical = action * (self.action_std + 1e-8) + self.action_mean
        return (physical - self._reference(state)) / self.relative_std[: action.shape[1]]

    def to_pipeline(self, chunk: Tensor, state: Tensor | None) -> Tensor:
        """The inverse of `to_network`."""
        if not self.relative:
            return chunk
        physical = chunk * self.relative_std[: chunk.shape[1]] + self._reference(state)
        return (physical - self.action_mean) / (self.action_std + 1e-8)


def same_joints(config: HybridConfig) -> bool:
    """True if action and state name the same joints in one order (or have no names and one size)."""
    if config.action_feature_names and config.state_feature_names:
        return list(config.action_feature_names) == list(config.state_feature_names)
    return config.state_size == config.action_size and config.state_size > 0
