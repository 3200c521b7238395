"""Drive an arm, real or simulated."""
