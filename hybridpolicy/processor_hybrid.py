"""The policy's pre- and postprocessing pipeline: exactly LeRobot's steps, under LeRobot's names."""

from typing import Any

from lerobot.processor import PolicyAction, PolicyProcessorPipeline, make_default_pre_post_processors

from hybridpolicy.configuration_hybrid import HybridConfig
from hybridpolicy.statistics import safe_statistics


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
    stats = dict(dataset_stats or {})
    sizes = {"action": config.action_size} | {vector.key: vector.size for vector in config.vectors}
    if config.state_size:
        sizes["observation.state"] = config.state_size
    for key, size in sizes.items():
        stats[key] = safe_statistics(stats, key, size)
    return make_default_pre_post_processors(config, stats)
