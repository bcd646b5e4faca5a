"""Parameter counts, keys and shapes of the published networks, on the meta device (reference.md sections 2, 5, 8)."""

import pytest
import torch

from rlloop.models.autoencoder import Autoencoder
from rlloop.models.fluxaudio import FluxAudio, FluxAudioSpec
from rlloop.rewards.tunejury import TuneJuryHead
from tests.golden.cases import published

S_16K = FluxAudioSpec(latent_dim=20, latent_seq_len=312)
L_16K = FluxAudioSpec(num_heads=14, latent_dim=20, latent_seq_len=312)


@pytest.fixture(autouse=True)
def on_meta():
    with torch.device("meta"):
        yield


@pytest.mark.parametrize(
    ("spec", "trainable", "stored"),
    [
        (FluxAudioSpec(), 120_231_848, 120_311_288),
        (S_16K, 120_106_388, 120_185_788),
        (L_16K, 478_417_684, 478_497_084),
    ],
    ids=["S 44k", "S 16k", "L 16k"],
)
def test_fluxaudio_counts(spec, trainable, stored):
    network = FluxAudio(spec)
    assert sum(p.numel() for p in network.parameters() if p.requires_grad) == trainable
    assert sum(value.numel() for value in network.state_dict().values()) == stored


def test_groups_of_s():
    """Counts by group at 44.1 kHz, section 2.2."""
    network = FluxAudio(FluxAudioSpec())
    counts = {name: sum(p.numel() for p in module.parameters()) for name, module in network.named_children()}
    assert counts == {
        "audio_input_proj": 12_168_128, "text_input_proj": 2_179_520, "text_cond_proj": 1_950_144, "t_embed": 316_288,
        "joint_blocks": 42_497_856, "fused_blocks": 60_592_128, "final_layer": 527_784,
    }  # fmt: skip


@pytest.mark.parametrize(
    ("name", "build"),
    [
        ("fluxaudio_s_44k", lambda: FluxAudio(FluxAudioSpec())),
        ("fluxaudio_s_16k", lambda: FluxAudio(S_16K)),
        ("vae_44k", lambda: Autoencoder(128, 40, 512)),
        ("vae_16k", lambda: Autoencoder(80, 20, 384)),
        ("tunejury", lambda: TuneJuryHead((2048, 1024, 512, 256, 128, 1))),
    ],
)
def test_published_keys_and_shapes(name, build):
    assert {key: str(tuple(value.shape)) for key, value in build().state_dict().items()} == published(name)


def test_autoencoder_and_head_counts():
    for size, millions in (((80, 20, 384), 171.7), ((128, 40, 512), 305.5)):
        assert sum(p.numel() for p in Autoencoder(*size).parameters()) / 1e6 == pytest.approx(millions, abs=0.05)
    assert sum(p.numel() for p in TuneJuryHead((2048, 1024, 512, 256, 128, 1)).parameters()) == 2_791_169
