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
def advantage_weights(
    policy: HybridPolicy,
    preprocessor: Callable[[dict[str, Any]], dict[str, Any]],
    reader: SourceReader,
    beta: float = 0.3,
    limit: float = 10.0,
) -> NDArray[np.float32]:
    """(N,) min(exp(A / beta), limit), where A = success of the frame's episode − the head's P(success) there.

    A frame whose outcome the head foresees weighs 1; for `DatasetSource.frame_weights`.

    Args:
        reader: of a source with outcomes = "recorded", from which all frames are weighed.

    Raises:
        ConfigurationError: beta or limit is not above 0, or the source says nothing of outcomes.
        QueryError: the policy has no outcome heads.
    """
    if not (beta > 0 and limit > 0):
        raise ConfigurationError(f"advantage: beta = {beta}, limit = {limit}; both must be above 0")
    if reader.source.outcomes != "recorded":
        raise ConfigurationError(
            f"advantage: source {reader.source.root!r} has outcomes = {reader.source.outcomes!r}; weights "
            "need 'recorded'"
        )
    policy.eval()
    weights = np.empty(reader.cache.num_frames, dtype=np.float32)
    for start in range(0, len(weights), _TOGETHER):
        rows = np.arange(start, min(start + _TOGETHER, len(weights)))
        batch = reader.gather(rows, world=False)
        seen = {k: v for k, v in batch.items() if k.startswith("observation.") or k == "task"}
        expected = policy.queries.evaluate(policy.context(preprocessor(seen))).success.cpu()
        advantage = batch["outcome.labels"][:, 1] - expected
        weights[rows] = torch.exp(advantage / beta).clamp(max=limit).numpy()
    return weights
