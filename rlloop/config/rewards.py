"""Rewards in a configuration: names, dotted paths, options, and the pools that hold them."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field, StringConstraints

from rlloop.config.sections import Role
from rlloop.config.targets import TargetEntry


class RewardEntry(TargetEntry):
    """A reward, in a configuration: its name alone, or a mapping where it takes options.

    A plain name is a built-in (`clap_score`) or a dotted path `package.module:Class`, whose scores go by the class.
    """

    name: str = Field(pattern=r"^[A-Za-z0-9_-]+$", description="what its scores are called, in rank_by for example")


def plain_rewards(*names: str) -> list[RewardEntry]:
    return [RewardEntry.model_validate(name) for name in names]


class RewardPool(Role):
    """Actors that hold the same rewards."""

    rewards: list[RewardEntry] = Field(
        default_factory=lambda: plain_rewards("tunejury_mini", "alignment_mini"),
        description="names, dotted paths, or mappings of name, target and options",
        min_length=1,
    )
    target: str = Field(
        "rlloop.recipes.scorer:Scorer",
        description="what the pool's actors run: package.module:Class with the methods of this one",
    )


class Scorer(RewardPool):
    """The first pool of scorers; a reward that wants other machines or more actors gets a pool of its own."""

    pools: dict[Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9_]+$")], RewardPool] = Field(
        default_factory=dict, description="further pools: name -> rewards, num_actors, num_cpus, num_gpus, threads"
    )

    @property
    def all_pools(self) -> dict[str, RewardPool]:
        """Role name -> pool, in the order in which a ticket passes them."""
        return {"scorer": self, **{f"scorer_{name}": pool for name, pool in self.pools.items()}}

    @property
    def all_rewards(self) -> list[RewardEntry]:
        return [reward for pool in self.all_pools.values() for reward in pool.rewards]


def score_name(reward: str | RewardEntry) -> str:
    """The name under which a reward's scores are kept: a built-in's own, or the class name of a dotted path."""
    return RewardEntry.model_validate(reward).name
