"""Stopping at the first NaN or infinity, with the batch that caused it on disk."""

import json
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save
from torch import Tensor, nn

from hybridpolicy.errors import NonFiniteError

FOLDER = "nonfinite"
_NAMED_AT_MOST = 5


def nonfinite_names(batch: dict[str, Any]) -> list[str]:
    """Keys of floating-point tensors that hold NaN or infinity."""
    tensors = {
        key: value for key, value in batch.items() if isinstance(value, Tensor) and value.is_floating_point()
    }
    return [key for key, value in tensors.items() if not bool(torch.isfinite(value).all())]


def nonfinite_gradients(module: nn.Module) -> list[str]:
    """Names of parameters whose gradient holds NaN or infinity."""
    found = ((name, parameter.grad) for name, parameter in module.named_parameters())
    return [name for name, grad in found if grad is not None and not bool(torch.isfinite(grad).all())]


def stop(
    output_dir: Path, step: int, rank: int, what: str, names: list[str], batch: dict[str, Any]
) -> NonFiniteError:
    """The error to raise. Saves `batch`, says `what` is not finite, in which tensors, and where to look."""
    rest = len(names) - _NAMED_AT_MOST
    listed = ", ".join(names[:_NAMED_AT_MOST]) + (f" and {rest} more" if rest > 0 else "")
    culprit = f" ({listed})" if names else ""
    path = output_dir / FOLDER / f"step_{step:09d}_process_{rank}"
    try:
        _save(path, step, what, names, batch)
        saved = f"the batch is saved as {path}.safetensors and .json"
    except OSError as error:
        saved = f"the batch could not be saved as {path}.safetensors ({error})"
    return NonFiniteError(
        f"step {step}: {what} is NaN or infinite{culprit}; {saved}. Its `index` has the frame numbers: look "
        "at those rows of the dataset, or lower lr; the newest checkpoint is from before"
    )


def _save(path: Path, step: int, what: str, names: list[str], batch: dict[str, Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    # Cloned: several keys share one pad mask, which safetensors refuses.
    tensors = {k: v.detach().cpu().contiguous().clone() for k, v in batch.items() if isinstance(v, Tensor)}
    path.with_suffix(".safetensors").write_bytes(save(tensors))
    plain = {key: value for key, value in batch.items() if isinstance(value, (str, int, float, list))}
    document = {"step": step, "not_finite": what, "tensors": names, "batch": plain}
    path.with_suffix(".json").write_text(json.dumps(document, indent=2, default=str))
