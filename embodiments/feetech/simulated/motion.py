"""How a position servo travels to its goal: a trapezoid of speed."""

from __future__ import annotations

import math


class Profile:
    """A setpoint in steps that follows a goal within a top speed and an acceleration."""

    def __init__(self) -> None:
        self.setpoint = 0.0
        self.speed = 0.0

    def restart(self, position: float) -> None:
        """Stands still at `position`."""
        self.setpoint, self.speed = position, 0.0

    def advance(self, goal: float, top_speed: float, acceleration: float, dt: float) -> None:
        """Moves the setpoint by one time step. `acceleration` 0 means none is limited, as in the servo."""
        distance = goal - self.setpoint
        if acceleration <= 0:
            self.speed = max(-top_speed, min(top_speed, distance / dt))
            self.setpoint += self.speed * dt
            return
        change = acceleration * dt
        # The speed from which the setpoint still stops at the goal, in whole time steps.
        stoppable = math.sqrt(2 * acceleration * abs(distance) + change * change / 4) - change / 2
        wanted = math.copysign(min(top_speed, stoppable), distance)
        self.speed += max(-change, min(change, wanted - self.speed))
        if abs(distance) <= abs(self.speed * dt) and abs(self.speed) <= 2 * change:
            self.setpoint, self.speed = goal, 0.0
        else:
            self.setpoint += self.speed * dt
