"""The world stream as an environment: a policy acts, the world policy imagines what it would see."""
