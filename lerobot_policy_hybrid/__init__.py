"""What LeRobot imports when it looks for plugins: registers the policy and the environments, nothing else.

LeRobot finds this package by its name (prefix `lerobot_policy_`, underscores) and imports it in every command
that loads plugins. The modules below register themselves with LeRobot's config classes and stay import-light.
"""

import embodiments.metaworld.configuration_env
import embodiments.so101.configuration_env
import hybridpolicy.configuration_hybrid
