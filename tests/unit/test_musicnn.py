"""The torch port of musicnn against TensorFlow and librosa (tests/golden/musicnn_tensorflow.npz)."""

from pathlib import Path

import numpy as np
import pytest
import torch

from rlloop.rewards.mini import ASSETS
from rlloop.rewards.musicnn import FrontBlock, MusiCNN, cut_patches, log_mel

# mel: log-mel (librosa) of `chord`, its first 187 frames; mtt, msd: TensorFlow's penultimate features of that mel.
GOLDEN = Path(__file__).parents[1] / "golden" / "musicnn_tensorflow.npz"


def chord() -> np.ndarray:
    rng, t = np.random.default_rng(0), np.arange(48_000) / 16_000
    notes = sum(np.sin(2 * np.pi * f * t) * np.exp(-1.5 * (t % 0.5)) for f in (220, 277.18, 329.63, 440, 1760))
    return (0.1 * notes + 0.01 * rng.standard_normal(len(t))).astype(np.float32)


@pytest.fixture(scope="module")
def golden() -> dict[str, torch.Tensor]:
    with np.load(GOLDEN) as file:
        return {name: torch.from_numpy(file[name].astype(np.float32)) for name in file.files}


def test_log_mel_agrees_with_librosa(golden):
    mel = log_mel(torch.from_numpy(chord())[None])[0]
    assert mel.shape == (188, 96)
    assert (mel[:187] - golden["mel"]).abs().max() < 2.5e-3  # the golden mel is stored in half precision


@pytest.mark.parametrize("name", ["mtt", "msd"])
def test_features_agree_with_tensorflow(golden, name):
    # 6e-6 with the original float32 weights; the shipped matrices are half precision.
    features = MusiCNN.from_file(ASSETS / f"musicnn_{name}.safetensors")(golden["mel"][None])[0]
    assert features.shape == (200,)
    assert (features - golden[name]).abs().max() < 4e-3


def test_front_block_equals_the_paper_order():
    """Maximum before ReLU and norm, with mirrored filters, is the maximum after them."""
    torch.manual_seed(0)
    block = FrontBlock((4, 5), 6)
    for parameter in block.parameters():
        torch.nn.init.normal_(parameter)
    mel = torch.randn(2, 20, 12)
    padded = torch.nn.functional.pad(mel, (0, 0, 1, 2)).unsqueeze(1)
    response = torch.relu(torch.nn.functional.conv2d(padded, block.weight, block.bias)).permute(0, 2, 3, 1)
    assert torch.allclose(block(mel), block.norm(response).amax(2), atol=1e-5)


@pytest.mark.parametrize(("frames", "starts"), [(187, [0]), (188, [0, 1]), (313, [0, 126]), (626, [0, 146, 293, 439])])
def test_patches_cover_the_clip(frames, starts):
    mel = torch.arange(frames, dtype=torch.float32)[None, :, None].expand(1, frames, 96)
    assert cut_patches(mel)[0, :, 0, 0].tolist() == starts
    assert starts[-1] + 187 == frames


def test_short_clips_are_repeated():
    patches = cut_patches(torch.arange(100.0)[None, :, None].expand(1, 100, 96))
    assert patches.shape == (1, 1, 187, 96)
    assert patches[0, 0, 100, 0] == 0 and patches[0, 0, 186, 0] == 86


def test_a_batch_is_its_clips():
    torch.set_num_threads(1)
    model = MusiCNN.from_file(ASSETS / "musicnn_mtt.safetensors")
    audio = torch.stack([torch.from_numpy(chord()), torch.randn(48_000, generator=torch.Generator().manual_seed(0))])
    both = model.embed(audio)
    assert torch.allclose(both, torch.cat([model.embed(audio[:1]), model.embed(audio[1:])]), atol=1e-4)
