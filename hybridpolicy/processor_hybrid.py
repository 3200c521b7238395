"""The policy's pre- and postprocessing pipeline: exactly LeRobot's steps, under LeRobot's names."""

from typing import Any

from lerobot.processor import PolicyAction, PolicyProcessorPipeline, make_default_pre_post_processors

from hybridpolicy.configuration_hybrid import HybridConfig
from hybridpolicy.statistics import mean_std


def make_hybrid_pre_post_processors(
    config: HybridConfig, dataset_stats: dict[str, dict[str, Any]] | None = None
) -> tuple[
    PolicyProcessorPipeline[dict[str, Any], dict[str, Any]],
    PolicyProcessorPipeline[PolicyAction, PolicyAction],
]:
    """Returns (preprocessor, postprocessor).

    LeRobot passes a column without statistics through unchanged and says nothing; here that is an error.

    Raises:
        ConfigurationError: there are no statistics of the state, of the action or of a named column, or they
            have another size.
    """
    stats = dataset_stats or {}
    mean_std(stats, "action", config.action_size)
    if config.state_size:
        mean_std(stats, "observation.state", config.state_size)
    for vector in config.vectors:
        mean_std(stats, vector.key, vector.size)
    return make_default_pre_post_processors(config, dataset_stats)
