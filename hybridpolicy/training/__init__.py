"""Training on LeRobot datasets: frames decoded once, pure batches, checkpoints that survive a kill.

cache       a LeRobotDataset v3 as memory-mapped arrays
loader      batch(step), a pure function of the seed and the step
checkpoint  complete or absent, never in between
feed        normalised batches on the device, ahead of the step
trainer     the loop
"""
