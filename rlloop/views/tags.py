"""Every TensorBoard tag, what it shows, and what its step counts. A tag that is not here is not written."""

from __future__ import annotations

# Steps: generation k trains on cohort k and makes version k+1; version 0 is the start; update counts optimizer steps
# over the whole run; seconds count from the run's first snapshot, the time between a stop and a resume included.
SCALARS = {
    "reward/policy_mean": "the reward, mean over all rollouts that a policy version made; step: version",
    "reward/cohort_mean": "the reward (first score ranked by), mean over the rollouts of a cohort; step: generation",
    "reward/cohort_top": "the same, mean over the selected rollouts; step: generation",
    "reward/cohort_std": "the same, standard deviation over all rollouts; step: generation",
    "reward/heldout": "the reward on the held-out prompts, mean over prompts of means over seeds; step: version",
    "cohort/{score}": "a named score, mean over all rollouts of a cohort; step: generation",
    "cohort/missing": "scores of a cohort that failed; step: generation",
    "heldout/{score}": "a named score, or distance of the set, on the held-out prompts; step: version",
    "decomposition/{score}": "a score's mean, or a distance, at the end of a stage; step: stage, the baseline is 0",
    "decomposition_gain/{score}": "the same less that of the stage before; step: stage",
    "alarm/raised": "judges that fell while the reward rose over several evaluations; step: version",
    "staleness/mean": "versions that a cohort's rollouts lagged, mean; step: generation",
    "staleness/max": "the same, largest; step: generation",
    "train/loss": "loss of an update; step: update",
    "train/{metric}": "what the algorithm reports beside its loss, as implicit_accuracy; step: update",
    "train/grad_norm": "gradient norm before clipping; step: update",
    "train/learning_rate": "learning rate of an update; step: update",
    "train/seconds": "how long an update took; step: update",
    "sync/seconds": "from publishing a version until the last sampler has loaded it; step: version",
    "pools/{pool}_busy": "share of the last minute that a pool worked, 0 to 1; step: seconds",
    "pools/{pool}_idle": "share of the last minute that a pool waited, 0 to 1; step: seconds",
    "pools/{pool}_actors": "actors of a pool; step: seconds",
    "buffer/rollouts": "rollouts held; step: seconds",
    "buffer/bytes": "bytes held; step: seconds",
    "storage/{kind}_bytes": "bytes of rollouts, checkpoints, clips, events, journal, object_store (used), spilled, and "
    "free_disk; step: seconds",
    "buffer/oldest_seconds": "age of the oldest rollout held; step: seconds",
    "speed/clips_per_minute": "clips generated and scored a minute; step: seconds",
}
AUDIO = {
    "audio/heldout_{number}": "a fixed held-out prompt and seed; step: version",
    "audio/best": "the best rollout of the newest cohort; step: version",
    "audio/median": "the median rollout of the newest cohort; step: version",
    "audio/worst": "the worst rollout of the newest cohort; step: version",
}
TEXT = {
    "configuration": "the resolved configuration as YAML; step 0",
    "alarm": "what set the alarm off: judge, versions, changes and p; step: version",
    "decomposition": "the stages so far, each over the one before; step: stage",
    "audio/captions": "prompt, seed, version and scores of every clip of a step; step: version",
}
LAYOUT = {
    "custom_scalars__config__": "the few curves that matter, as the custom scalars tab opens on them; step 0",
    "_hparams_/experiment": "by which scores runs are compared; step 0",
    "_hparams_/session_start_info": "the settings that runs usually differ in; step 0",
}
