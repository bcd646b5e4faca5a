"""The configuration: its schema with units, YAML presets, dotted overrides, and checks across fields.

Every field is documented beside it; an unknown key is an error that names the nearest known one.
"""

from rlloop.config.checks import cross_checks, differing_generations, generation_stages, selection_read
from rlloop.config.judges import ALARM_EVALUATIONS, ALARM_PROMPTS
from rlloop.config.loading import PRESETS, build, find_preset, load
from rlloop.config.rewards import RewardEntry, RewardPool, Scorer, plain_rewards, score_name
from rlloop.config.run import Alarm, Config, Evaluation, Limits, Loop, resolve_rewards
from rlloop.config.sections import Generator, Role, Sampler, Sampling, Section
from rlloop.config.targets import StepEntry, TargetEntry
from rlloop.config.training import Phase, Selection, Stage, Trainer
from rlloop.config.trust import named_code

__all__ = [
    "ALARM_EVALUATIONS", "ALARM_PROMPTS", "PRESETS", "Alarm", "Config", "Evaluation", "Generator", "Limits", "Loop",
    "Phase", "RewardEntry", "RewardPool", "Role", "Sampler", "Sampling", "Scorer", "Section", "Selection", "Stage",
    "StepEntry", "TargetEntry", "Trainer", "build", "cross_checks", "differing_generations", "find_preset",
    "generation_stages", "load", "named_code", "plain_rewards", "resolve_rewards", "score_name", "selection_read",
]  # fmt: skip
