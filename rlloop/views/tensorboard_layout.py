"""What TensorBoard opens on: the few curves that matter, and the settings by which runs are compared.

Its plugins' own helpers want TensorFlow, so the values are made of their messages here.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from tensorboard.compat.proto.summary_pb2 import Summary
from tensorboard.compat.proto.tensor_pb2 import TensorProto
from tensorboard.plugins.custom_scalar import layout_pb2
from tensorboard.plugins.custom_scalar import metadata as custom_scalar
from tensorboard.plugins.hparams import api_pb2, plugin_data_pb2
from tensorboard.plugins.hparams import metadata as hparams

from rlloop.config import Config
from rlloop.views.scores import evaluation_labels, score_label

Hyperparameters = dict[str, float | str]


def charts(config: Config) -> dict[str, dict[str, list[str]]]:
    """Category -> chart -> its tags; the first category is open."""
    judges = [name for name in config.judges() if name != score_label(config)]
    others = [name for name in evaluation_labels(config) if name not in (*judges, score_label(config))]
    watched = {f"held-out judge: {name}": [f"heldout/{name}"] for name in judges}
    pools = ["sampler", *config.scorer.all_pools, "trainer", "evaluator"]
    return {
        "What matters": {
            "reward by policy version": ["reward/heldout", "reward/policy_mean"],
            **watched,
            "staleness by generation": ["staleness/mean", "staleness/max"],
            "reward of cohorts": ["reward/cohort_mean", "reward/cohort_top"],
            **({"other held-out scores": [f"heldout/{name}" for name in others]} if others else {}),
        },
        "Is it healthy": {
            "loss": ["train/loss"],
            "gradient norm": ["train/grad_norm"],
            "how busy the pools are": [f"pools/{pool}_busy" for pool in pools],
            "failed scores and alarms": ["cohort/missing", "alarm/raised"],
            "clips a minute": ["speed/clips_per_minute"],
        },
    }


def layout_value(config: Config) -> Summary.Value:
    """The custom scalars dashboard."""
    categories = []
    for number, (title, found) in enumerate(charts(config).items()):
        exact = {name: [f"^{re.escape(tag)}$" for tag in tags] for name, tags in found.items()}
        multiline = {name: layout_pb2.MultilineChartContent(tag=tags) for name, tags in exact.items()}
        lines = [layout_pb2.Chart(title=name, multiline=content) for name, content in multiline.items()]
        categories.append(layout_pb2.Category(title=title, chart=lines, closed=number > 0))
    layout = layout_pb2.Layout(category=categories)
    tensor = TensorProto(dtype="DT_STRING", string_val=[layout.SerializeToString()])
    return Summary.Value(
        tag=custom_scalar.CONFIG_SUMMARY_TAG, metadata=custom_scalar.create_summary_metadata(), tensor=tensor
    )


def hyperparameters(config: Config) -> Hyperparameters:
    """The settings that runs usually differ in. Every run has the same names, numbers stay numbers, so that any two
    can stand in one table; what differs by stage is one text in the order of stages."""
    stages, phases = config.stages, [phase for stage in config.stages for phase in stage.phases]
    found: dict[str, Any] = {
        "seed": config.seed,
        "generator": config.generator.target,
        "stages": ", ".join(stage.name for stage in stages),
        "algorithms": ", ".join(stage.algorithm for stage in stages),
        "options": "; ".join(f"{s.name} {key} {value}" for s in stages for key, value in s.options.items()),
        "versions": sum(stage.generations for stage in stages),
        "tickets": sum(stage.generations * stage.tickets for stage in stages),
        "clips_per_prompt": config.sampler.clips_per_prompt,
        "updates": sum(stage.generations * sum(phase.updates for phase in stage.phases) for stage in stages),
        "largest_learning_rate": max((phase.learning_rate for phase in phases), default=0.0),
        "learning_rates": ", ".join(f"{phase.learning_rate:g}" for phase in phases),
        "batch_sizes": ", ".join(str(phase.batch_size) for phase in phases),
        "top_fractions": ", ".join(f"{stage.selection.top_fraction:g}" for stage in stages),
        "ranked_by": "; ".join(" + ".join(stage.selection.rank_by) for stage in stages if stage.tickets),
        "max_staleness": config.loop.max_staleness,
        "solver_steps": config.sampling.num_steps,
        "guidance": config.sampling.guidance,
        "conditioning_score": "none" if config.sampling.score is None else f"{config.sampling.score:g}",
        "weight_decay": config.trainer.weight_decay,
    }
    return {name: value if isinstance(value, str) else float(value) for name, value in found.items()}


def comparison_values(config: Config, time: float) -> list[Summary.Value]:
    """The hyperparameters dashboard: this run's settings, and held-out scores as what they are compared by."""
    found = hyperparameters(config)
    rest = [name for name in evaluation_labels(config) if name != score_label(config)]
    tags = ["reward/heldout", *(f"heldout/{name}" for name in rest)]
    experiment = api_pb2.Experiment(
        time_created_secs=time,
        hparam_infos=[api_pb2.HParamInfo(name=name, type=_type(value)) for name, value in found.items()],
        metric_infos=[api_pb2.MetricInfo(name=api_pb2.MetricName(tag=tag)) for tag in tags],
    )
    start = plugin_data_pb2.SessionStartInfo(start_time_secs=time)
    for name, value in found.items():
        if isinstance(value, str):
            start.hparams[name].string_value = value
        else:
            start.hparams[name].number_value = value
    return [
        _hparams(hparams.EXPERIMENT_TAG, plugin_data_pb2.HParamsPluginData(experiment=experiment)),
        _hparams(hparams.SESSION_START_INFO_TAG, plugin_data_pb2.HParamsPluginData(session_start_info=start)),
    ]


def _type(value: float | str) -> int:
    return api_pb2.DATA_TYPE_STRING if isinstance(value, str) else api_pb2.DATA_TYPE_FLOAT64


def _hparams(tag: str, content: Any) -> Summary.Value:
    return Summary.Value(tag=tag, metadata=hparams.create_summary_metadata(content), tensor=hparams.NULL_TENSOR)


def caption_table(rows: Sequence[tuple[str, str, int, int, Mapping[str, float | None]]]) -> str:
    """Markdown: (clip, prompt, seed, version, scores) a line."""
    lines = ["| clip | prompt | seed | version | scores |", "|---|---|---|---|---|"]
    for clip, prompt, seed, version, scores in rows:
        shown = ", ".join(f"{name} {'missing' if value is None else f'{value:+.3f}'}" for name, value in scores.items())
        lines.append(f"| {clip} | {plain(prompt)} | {seed} | {version} | {shown} |")
    return "\n".join(lines)


def plain(text: str) -> str:
    """A prompt in one cell of a table, whatever it holds."""
    return " ".join(text.split()).replace("\\", "\\\\").replace("|", "\\|").replace("<", "&lt;")
