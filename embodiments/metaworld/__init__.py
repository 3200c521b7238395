"""Meta-World for LeRobot: small fast images, policy rates, seeds that keep training and evaluation apart.

tasks.py                task names, groups and LeRobot's task texts (no simulator needed)
simulation.py           one Meta-World task: seeding, stepping, scripted expert
rendering.py            the corner2 frame at any size, 20 times cheaper than stock
env.py                  MetaworldEnv (gymnasium), renders only when asked
slots.py                several environments in one process
vector.py, worker.py    many slots here, or in spawned processes without torch
recording.py            demonstrations of the scripted experts as a LeRobotDataset
configuration_env.py    LeRobot's `--env.type=hybrid_metaworld`

Importing this package imports nothing else.
"""
