"""What LeRobot imports when it looks for plugins: registers the policy and the environments, nothing else.

LeRobot finds this package by its name (prefix `lerobot_policy_`, underscores) and imports it in every command
that loads plugins, `lerobot-calibrate` among them. A kind is registered only where the command has loaded
that kind itself: importing LeRobot's policies and environments takes seconds that calibrating has no use for.
"""

import importlib
import sys

KINDS = {
    "lerobot.configs.policies": ("hybridpolicy.configuration_hybrid",),
    "lerobot.envs.configs": (
        "embodiments.so101.configuration_env",
        "embodiments.metaworld.configuration_env",
        "hybridpolicy.dream.configuration_env",
    ),
    "lerobot.cameras.configs": ("embodiments.twin_camera.configuration",),
    "lerobot.robots.so_follower": ("embodiments.so101.configuration",),
}


def register(everything: bool = False) -> None:
    """Registers what the running command can use; with `everything`, all kinds."""
    for lerobot_module, ours in KINDS.items():
        if everything or lerobot_module in sys.modules:
            for name in ours:
                importlib.import_module(name)


register()
