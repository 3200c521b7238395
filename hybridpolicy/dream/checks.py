"""Which policies can be dreamt in. No torch: LeRobot's parser asks."""

from hybridpolicy.configuration_hybrid import HybridConfig
from hybridpolicy.couplings import COUPLINGS
from hybridpolicy.errors import ConfigurationError, QueryError


def check_world(config: HybridConfig) -> None:
    """Raises an error if a policy of `config` cannot be dreamt in."""
    row = COUPLINGS[config.coupling]
    if row.world_shown == "blocks":
        raise ConfigurationError(
            f"dream: coupling = {row.name} imagines each moment from the actions of earlier blocks alone, so "
            "the last ones would change nothing; dream in a policy of coupling = joint"
        )
    if "imagine_actions" not in row.queries:
        raise QueryError(
            f"dream: coupling = {row.name} cannot imagine under actions that are given; dream in a policy of "
            "coupling = joint"
        )
    if not config.state_size:
        raise ConfigurationError(
            "dream: the world policy has no observation.state, so no arm would be seen to move"
        )
    if config.world_offsets[0] > config.chunk_size:
        raise ConfigurationError(
            f"dream: world_offsets = {config.world_offsets} lie beyond chunk_size = {config.chunk_size}: no "
            "chunk reaches the first imagined moment; train with an offset within the chunk"
        )
