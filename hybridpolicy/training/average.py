"""The running average of all weights of a module: what is exported as the policy."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from hybridpolicy.errors import CheckpointError

Weights = dict[str, Tensor]


def live_weights(module: nn.Module) -> Weights:
    """Every tensor of the state dict by name, sharing memory with the module; tied tensors once."""
    unique: Weights = {}
    seen: set[tuple[int, torch.Size]] = set()
    for name, tensor in module.state_dict().items():
        identity = (tensor.data_ptr(), tensor.shape)
        if tensor.numel() == 0 or identity not in seen:
            unique[name] = tensor
            seen.add(identity)
    return unique


@torch.no_grad()
def copy_weights(source: Mapping[str, Tensor], target: Mapping[str, Tensor], what: str) -> None:
    """Writes `source` into the memory of `target`.

    Raises:
        CheckpointError: names or shapes differ.
    """
    if source.keys() != target.keys():
        missing, extra = sorted(target.keys() - source.keys()), sorted(source.keys() - target.keys())
        raise CheckpointError(
            f"{what}: made for another policy; missing {missing[:5]}, unknown {extra[:5]}. Resume with the "
            "recipe saved beside the checkpoint, or choose a new output_dir"
        )
    for name, tensor in target.items():
        if tensor.shape != source[name].shape:
            raise CheckpointError(
                f"{what}: {name} has shape {tuple(source[name].shape)}, the policy needs "
                f"{tuple(tensor.shape)}; resume with the recipe saved beside the checkpoint, "
                "or choose a new output_dir"
            )
        tensor.copy_(source[name])


class WeightAverage:
    """Exponential moving average of the parameters of `module`; buffers (counters …) stay as they are.

    The decay rises as (1 + n) / (10 + n) to `decay` after n updates, so that the first weights are forgotten.
    Build it once the module is on its device: it keeps references to the module's memory.
    """

    def __init__(self, module: nn.Module, decay: float) -> None:
        self.decay = decay
        self.num_updates = 0
        parameters = {
            parameter.data_ptr() for parameter in module.parameters() if parameter.is_floating_point()
        }
        live = live_weights(module) if decay else {}
        self._live = {name: tensor for name, tensor in live.items() if tensor.data_ptr() in parameters}
        self.weights: Weights = {name: tensor.clone() for name, tensor in self._live.items()}
        self._pairs = list(self.weights.values()), list(self._live.values())

    @torch.no_grad()
    def update(self) -> None:
        """One step towards the module's present weights."""
        self.num_updates += 1
        if self._live:
            decay = min(self.decay, (1 + self.num_updates) / (10 + self.num_updates))
            torch._foreach_lerp_(*self._pairs, 1 - decay)

    def load(self, weights: Mapping[str, Tensor], num_updates: int) -> None:
        """Continues from a saved average. Raises CheckpointError where it is of another policy."""
        copy_weights(weights, self.weights, "averaged weights")
        self.num_updates = num_updates

    @contextmanager
    def applied(self) -> Iterator[None]:
        """Within the block the module holds the average."""
        present = {name: tensor.clone() for name, tensor in self._live.items()}
        copy_weights(self.weights, self._live, "averaged weights")
        try:
            yield
        finally:
            copy_weights(present, self._live, "present weights")
