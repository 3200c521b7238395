"""Labels of progress, success and risk for every frame of a dataset, from how its episodes ended.

N frames of the dataset, E episodes, T chunk length.
"""

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from hybridpolicy.errors import DatasetError
from hybridpolicy.outcome_schema import EVENT, INTERVENTION, SUCCESS


def outcome_labels(
    kind: str,
    columns: Mapping[str, NDArray[np.generic]],
    episode_from: NDArray[np.int64],
    episode_to: NDArray[np.int64],
    chunk_size: int,
    where: str,
) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
    """Labels (N, 3) of progress, success, risk, and which of them are known (N, 3).

    progress is 1 − remaining frames over the median length of a success, at least 0, and unknown (censored)
    for a failure, and everywhere if nothing succeeded; risk is an `outcome.event` or an
    `intervention` within the next `chunk_size` frames of the episode.

    Args:
        kind: "demonstrations" (all end in success, nothing is known of risk) or "recorded".
        where: the dataset, for the message.

    Raises:
        DatasetError: "recorded", and a column is missing.
    """
    lengths = episode_to - episode_from
    frames = int(lengths.sum())
    succeeded = np.ones(len(lengths), dtype=bool)
    events = np.zeros(frames, dtype=bool)
    if kind == "recorded":
        missing = [name for name in (SUCCESS, EVENT) if name not in columns]
        if missing:
            raise DatasetError(
                f"{where}: outcomes = 'recorded' needs the columns {[SUCCESS, EVENT]}, missing {missing}; "
                "record with `hybridpolicy data collect`, or set outcomes = 'demonstrations'"
            )
        ended = np.asarray(columns[SUCCESS], bool).reshape(frames)
        succeeded = np.add.reduceat(ended, episode_from) > 0
        events = np.asarray(columns[EVENT], bool).reshape(frames)
        if INTERVENTION in columns:  # a person had to step in
            events |= np.asarray(columns[INTERVENTION], bool).reshape(frames)
    last = np.repeat(episode_to - 1, lengths)
    remaining = last - np.arange(frames)
    labels = np.zeros((frames, 3), dtype=np.float32)
    if succeeded.any():  # else progress has no scale
        labels[:, 0] = np.clip(1.0 - remaining / np.median(lengths[succeeded]), 0.0, 1.0)
    labels[:, 1] = np.repeat(succeeded, lengths)
    count = np.concatenate(([0], np.cumsum(events)))
    ahead = np.minimum(np.arange(frames) + chunk_size, last + 1)
    labels[:, 2] = count[ahead] > count[:-1]
    known = np.ones((frames, 3), dtype=bool)
    known[:, 0] = np.repeat(succeeded, lengths)
    known[:, 2] = kind == "recorded"
    return labels, known
