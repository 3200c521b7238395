"""The policy: goal, frames, world, action, couplings and queries. Knows torch and LeRobot, knows no arm."""
