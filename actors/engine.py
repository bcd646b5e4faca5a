"""The DeepSpeed engine, its configuration generated from ours; users never write it."""

from __future__ import annotations

from typing import Any

from rlloop.config import Config


def engine_config(config: Config) -> dict[str, Any]:
    """DeepSpeed's configuration. Batch sizes are placeholders: the loop forms its own batches."""
    trainer, autocast = config.trainer, {}
    if trainer.precision == "bfloat16":  # without its own switch DeepSpeed turns a surrounding autocast off on CUDA
        autocast = {"enabled": True, "dtype": "bfloat16", "lower_precision_safe_modules": []}  # gradients stay float32
    return {
        **({"torch_autocast": autocast} if autocast else {}),
        "train_micro_batch_size_per_gpu": 1,
        "gradient_accumulation_steps": 1,
        "optimizer": {
            "type": "AdamW",
            "params": {
                "lr": 1e-5,  # each update sets its own
                "betas": list(trainer.adam_betas),
                "eps": trainer.adam_eps,
                "weight_decay": trainer.weight_decay,
                "torch_adam": True,  # the alternative compiles CPUAdam
            },
        },
        "zero_optimization": {"stage": trainer.zero_stage},
        "gradient_clipping": trainer.clip_grad_norm,
        "steps_per_print": 10**9,
    }


def build_engine(network, config: Config):
    """Wraps the network; returns (engine, device).

    DeepSpeed would compile a shared-memory collective on first use: 83 s, and a killed compile leaves a lock that hangs
    every later run. It is marked as unavailable, so gloo does the reductions (decision 0003).
    """
    import deepspeed
    import deepspeed.ops

    deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
    trainable = [parameter for parameter in network.parameters() if parameter.requires_grad]
    engine, *_ = deepspeed.initialize(
        model=network, model_parameters=trainable, config=engine_config(config), dist_init_required=False
    )
    return engine, engine.device
