"""An untrained network: drawn once and for all, with published statistics and the empty prompt's features."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from rlloop.data.features import FeatureFolder, FeatureSpec
from rlloop.models.latent_statistics import MEAN_16K, STD_16K
from rlloop.models.prompt_table import PromptTable
from rlloop.models.scratch import untrained
from tests.unit.test_official import NETWORK

SPEC = replace(NETWORK, latent_dim=20, score_variant=None)


def table(folder, prompts: list[str]) -> PromptTable:
    draws = np.random.default_rng(0)
    text = draws.standard_normal((len(prompts), 7, 6), dtype=np.float32)
    text_c = draws.standard_normal((len(prompts), 5), dtype=np.float32)
    FeatureFolder(folder, FeatureSpec("t5", "clap")).write(prompts, text, text_c)
    return PromptTable(folder)


def test_it_is_drawn_once_and_for_all_and_knows_its_latents_and_the_empty_prompt(tmp_path):
    features, before = table(tmp_path, ["", "a choir"]), torch.random.get_rng_state()
    network, again = (untrained(SPEC, None, features) for _ in range(2))
    assert torch.equal(torch.random.get_rng_state(), before)
    assert network.spec.score_variant == "v1"
    for one, other in zip(network.state_dict().values(), again.state_dict().values(), strict=True):
        assert torch.equal(one, other)
    assert torch.allclose(network.latent_mean.flatten(), torch.tensor(MEAN_16K))
    assert torch.allclose(network.latent_std.flatten(), torch.tensor(STD_16K))
    assert torch.equal(network.empty_string_feat, features.encode([""])["text"][0])
    x = torch.randn(2, 10, 20)
    conditions = features.encode(["a choir", ""])
    assert not network(x, torch.tensor([0.3, 0.6]), conditions, torch.tensor([1.0, 2.0])).any()  # section 2.6


def test_without_the_empty_prompt_it_says_how_to_get_it(tmp_path):
    with pytest.raises(ValueError, match="no features of the empty prompt.*--negative ''"):
        untrained(SPEC, "v2", table(tmp_path, ["a choir"]))


def test_unknown_latents_have_no_statistics(tmp_path):
    with pytest.raises(ValueError, match=r"published for \[20, 40\] channels, these are 4"):
        untrained(NETWORK, "v1", table(tmp_path, [""]))
