"""What calls of a network take: which parameters they use, and how many operations."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import flop_registry, sdpa_backward_flop, sdpa_flop

# torch counts attention of a GPU only.
_COUNTS = flop_registry | {
    torch.ops.aten._scaled_dot_product_flash_attention_for_cpu: sdpa_flop,
    torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward: sdpa_backward_flop,
}


class _Watch(TorchDispatchMode):
    """Storage that operations were given, and what they computed, while it is active."""

    def __init__(self) -> None:
        super().__init__()
        self.flops = 0
        self.used: set[int] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        given = (leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor))
        self.used |= {tensor.untyped_storage().data_ptr() for tensor in given}
        result = func(*args, **kwargs)
        if func.overloadpacket in _COUNTS:
            self.flops += _COUNTS[func.overloadpacket](*args, **kwargs, out_val=result)
        return result


def _watch(call: Callable[[], object], trained: bool = False) -> _Watch:
    with torch.set_grad_enabled(trained), _Watch() as watch:
        call()
    return watch


def count_live(model: nn.Module, call: Callable[[], object]) -> int:
    """Numbers in the parameters of `model` that a first call uses, encoding the instruction included."""
    model.eval()  # instructions read before are forgotten
    used = _watch(call).used
    return sum(p.numel() for p in model.parameters() if p.untyped_storage().data_ptr() in used)


def count_flops(call: Callable[[], object], calls: int = 1, trained: bool = False) -> int:
    """Operations of one of `calls` calls: of matrix products and convolutions, a multiply-add being two.

    trained: with gradients; what a `backward` inside `call` takes is counted.
    """
    return sum(_watch(call, trained).flops for _ in range(calls)) // calls
