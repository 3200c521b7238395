"""Stopping where the latents of all samples have become alike: what tells nothing apart foretells nothing."""

from collections.abc import Mapping

from hybridpolicy.errors import CollapseError
from hybridpolicy.objective import LATENT_RANK

LEAST_RANK = 1.5  # of a micro-batch; that of latents which differ along one direction alone is 1


def require_rank(means: Mapping[str, float], step: int) -> None:
    """Raises `CollapseError` if the mean effective rank in `means` is below `LEAST_RANK`."""
    rank = means.get(LATENT_RANK)
    if rank is not None and rank < LEAST_RANK:
        raise CollapseError(
            f"step {step}: the latents of all samples have become alike (effective rank {rank:.2f}; at least "
            f"{LEAST_RANK} is needed). Look whether the cameras show anything that changes, raise "
            "policy.collapse_weight, or lower lr; the newest checkpoint is from before"
        )
