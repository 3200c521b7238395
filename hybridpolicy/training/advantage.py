"""How often a recorded frame is worth learning from: by how much better its episode ended than was expected.

Advantage-weighted regression (Peng et al. 2019, arXiv 1910.00177) with an episode's success as its return and
the success head as baseline. N frames of the dataset.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from hybridpolicy.errors import ConfigurationError
from hybridpolicy.modeling_hybrid import HybridPolicy
from hybridpolicy.training.loader import SourceReader

_TOGETHER = 128


@torch.no_grad()
def foresee(
    policy: HybridPolicy,
    preprocessor: Callable[[dict[str, Any]], dict[str, Any]],
    reader: SourceReader,
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """(N,) the success head's P(success) at every frame, and (N,) how its episode ended, 0 or 1.

    Args:
        reader: of a source that says how episodes ended; all of its frames are judged.

    Raises:
        ConfigurationError: the source says nothing of outcomes.
        QueryError: the policy has no trained outcome heads.
    """
    if not reader.source.outcomes:
        raise ConfigurationError(
            f"advantage: source {reader.source.root!r} has outcomes = ''; weights need 'recorded' or "
            "'demonstrations'"
        )
    policy.eval()
    expected, ended = (np.empty(reader.cache.num_frames, dtype=np.float32) for _ in range(2))
    for start in range(0, len(expected), _TOGETHER):
        rows = np.arange(start, min(start + _TOGETHER, len(expected)))
        batch = reader.gather(rows, world=False)
        seen = {k: v for k, v in batch.items() if k.startswith("observation.") or k == "task"}
        expected[rows] = policy.queries.evaluate(policy.context(preprocessor(seen))).success.cpu().numpy()
        ended[rows] = batch["outcome.labels"][:, 1].numpy()
    return expected, ended


def advantage_weights(
    expected: NDArray[np.float32], ended: NDArray[np.float32], beta: float = 0.3, limit: float = 10.0
) -> NDArray[np.float32]:
    """(N,) min(exp((ended − expected) / beta), limit), for `DatasetSource.frame_weights`.

    A frame whose outcome was foreseen weighs 1. `expected` must come from heads that were not trained on how
    these episodes ended, or they foresee all of it.

    Raises:
        ConfigurationError: beta or limit is not above 0.
    """
    if not (beta > 0 and limit > 0):
        raise ConfigurationError(f"advantage: beta = {beta}, limit = {limit}; both must be above 0")
    return np.minimum(np.exp((ended - expected) / beta), limit).astype(np.float32)
