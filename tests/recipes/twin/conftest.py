"""A policy that hardly moves: it succeeds where nothing is to be done, and nowhere else."""

import pytest

from hybridpolicy.evaluation.acting import Actor


@pytest.fixture(scope="session")
def still(make_policy_folder):
    """(**config) → an actor around an untrained policy."""

    def make(**fields):
        actor = Actor.load(make_policy_folder(**fields))
        actor.policy.embodiment.relative_std.fill_(0.02)
        return actor

    return make
