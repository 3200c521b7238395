"""An actor that plans: which arms it plans for, and what its budget counts."""

import time

import numpy as np
import pytest
import torch

from hybridpolicy.embodiment import Embodiment
from hybridpolicy.errors import ConfigurationError
from hybridpolicy.evaluation.acting import Actor
from hybridpolicy.planner import Planner
from hybridpolicy.planner_settings import PlannerSettings
from hybridpolicy.processor_hybrid import make_hybrid_pre_post_processors


def test_a_planner_is_of_one_arm_and_arms_that_stand_plan_apart(make_policy, make_batch, stats):
    policy = make_policy(coupling="joint", action_law="flow", rtc_share=0.5).eval()
    pre, post = make_hybrid_pre_post_processors(policy.config, stats)
    actor = Actor(policy, pre, post)
    actor.set_planner(PlannerSettings(2, success=0.0))
    pixels = {name: np.zeros((2, 32, 32, 3), np.uint8) for name in policy.config.cameras}
    asked = (pixels, np.tile(stats["action"]["mean"], (2, 1)), ["push"] * 2)
    _, chosen = actor.choose(*asked)
    left = chosen[:, 2:].clone()
    assert actor.choose(*asked, left_over=left, delay=1)[1] is not None
    left[1] = torch.nan
    with pytest.raises(ConfigurationError, match="some stand, so not all can keep the 1 actions"):
        actor.choose(*asked, left_over=left, delay=1)
    policy.embodiments["arm"] = Embodiment(policy.config)
    with pytest.raises(ConfigurationError, match="for another arm than is active now"):
        actor.choose(*asked)


def test_a_budget_counts_from_when_the_observation_came(make_policy, stats, monkeypatch):
    """What the pipeline takes is part of it."""
    policy = make_policy(coupling="joint", action_law="flow").eval()
    pre, post = make_hybrid_pre_post_processors(policy.config, stats)
    actor = Actor(policy, pre, post)
    actor.set_planner(PlannerSettings(2, success=0.0, budget_ms=50.0))
    passed, plan, batch = [], Planner.plan, Actor.batch

    def slow(self, *args, **kwargs):
        time.sleep(0.1)
        return batch(self, *args, **kwargs)

    def told(self, *args, since, **kwargs):
        passed.append(time.perf_counter() - since)
        return plan(self, *args, since=since, **kwargs)

    monkeypatch.setattr(Actor, "batch", slow)
    monkeypatch.setattr(Planner, "plan", told)
    pixels = {name: np.zeros((1, 32, 32, 3), np.uint8) for name in policy.config.cameras}
    actor.choose(pixels, stats["action"]["mean"][None], ["push"])
    assert passed[0] >= 0.1
