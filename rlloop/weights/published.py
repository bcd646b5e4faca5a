"""What is published: files, where they are, sizes, checksums, licences (reference.md sections 5, 6, 8, 10 and 12.2).

Checksums: sha256 of gclef_crpoA_fluxaudio_s.pt and md5 of v1-44.pth, v1-16.pth, best_netG.pt and tunejury.pt are their
authors'; for the rest, the sha256 that the Hub states for the file, as users of it have recorded. The names of Demucs'
files carry the first eight digits of theirs. MERT's are not known here, and neither are those of future revisions: what
the Hub states is then checked and kept in lock.json.
"""

from __future__ import annotations

from rlloop.weights.catalogue import Entry, File, Hub, Url

MMAUDIO_RELEASE = "https://github.com/hkchengrex/MMAudio/releases/download/v0.1"
CLAP = Hub("lukewys/laion_clap", "", "b3708341862f581175dba5c356a4ebf74a9b6651")
FLAN_T5 = Hub("google/flan-t5-large", "", "0613663d0d48ea86ba8cb3d7a44f0f65dc596a2a")
ROBERTA = Hub("FacebookAI/roberta-base", "", "e2da8e2f811d1448a5b465c236feacd80ffbac7b")
BIGVGAN = Hub("nvidia/bigvgan_v2_44khz_128band_512x", "", "95a9d1dcb12906c03edd938d77b9333d6ded7dfb")
MERT = Hub("m-a-p/MERT-v1-330M", "", "5240c2708a5acaee1007f43fb9735c7dcd0b78c9")
DEMUCS = "https://dl.fbaipublicfiles.com/demucs/mdx_final"
BY_NC = "CC BY-NC 4.0"


def of(repo: Hub, name: str, sha256: str = "", num_bytes: int | None = None, **more) -> File:
    """A file that has the same name in its repository."""
    checksums = (f"sha256:{sha256}",) if sha256 else ()
    return File(name, (Hub(repo.repo, name, repo.revision),), num_bytes, checksums=checksums, **more)


def mmaudio(name: str, num_bytes: int, *checksums: str, **more) -> File:
    """A file that MMAudio's authors publish on the Hub and as a release on GitHub."""
    sources = (Hub("hkchengrex/MMAudio", f"ext_weights/{name}"), Url(f"{MMAUDIO_RELEASE}/{name}"))
    return File(name, sources, num_bytes, checksums=checksums, **more)


def clap(name: str, sha256: str) -> File:
    shapes = {"text_projection.0.weight": (512, 768), "audio_projection.0.weight": (512, 1024)}
    holds = {f"module.{key}|{key}": shape for key, shape in shapes.items()}
    return of(CLAP, name, sha256, 2_352_471_003, holds=holds, inside="state_dict")


def demucs(name: str, num_bytes: int, sha256: str) -> File:
    return File(name, (Url(f"{DEMUCS}/{name}"),), num_bytes, checksums=(f"sha256:{sha256}",))


def bigvgan_holds(num_mels: int) -> dict[str, tuple[int, ...]]:
    weight = "conv_pre.weight_v|conv_pre.parametrizations.weight.original1"
    return {weight: (1536, num_mels, 7), "conv_pre.bias": (1536,)}


PUBLISHED = (
    Entry(
        "fluxaudio_s_44k_gclef",
        "generator: FluxAudio-S at 44.1 kHz, the submission of arXiv:2606.21670",
        f"{BY_NC}, research",
        (
            File(
                "gclef_crpoA_fluxaudio_s.pt",
                (Hub("yonghyunk1m/TTM-HumanPref", "gclef_crpoA_fluxaudio_s.pt"),),
                about_bytes=483_000_000,
                checksums=("sha256:0cfb8295fbd695a99c7a2599363a465fdc28a94f39c8d43faf7487461e5e15f2",),
                holds={
                    "audio_input_proj.0.weight": (448, 40, 7),
                    "fused_blocks.7.adaLN_modulation.1.weight": (2688, 448),
                    "final_layer.conv.weight": (40, 448, 7),
                },
            ),
        ),
        main="gclef_crpoA_fluxaudio_s.pt",
        note="the authors' GitHub release v1.0-icme2026 holds the same file",
    ),
    Entry(
        "vae_44k",
        "autoencoder at 44.1 kHz (MMAudio)",
        BY_NC,
        (
            mmaudio(
                "v1-44.pth",
                1_221_942_998,
                "md5:fab020275fa44c6589820ce025191600",
                "sha256:ab6cc15dc31947675f75c950c41f4dcfd0d6d1817555ac871f809ec388e4651a",
                holds={"data_mean": (1, 128, 1), "decoder.conv_out.weight": (128, 512, 3)},
            ),
        ),
        main="v1-44.pth",
    ),
    Entry(
        "vae_16k",
        "autoencoder at 16 kHz (MMAudio)",
        BY_NC,
        (
            mmaudio(
                "v1-16.pth",
                686_652_758,
                "md5:69f56803f59a549a1a507c93859fd4d7",
                "sha256:15ad082c714ccf3771898a771fc6eebdc1d9c8d5c6154726906a97f43603d62c",
                holds={"data_mean": (1, 80, 1), "decoder.conv_out.weight": (80, 384, 3)},
            ),
        ),
        main="v1-16.pth",
    ),
    Entry(
        "bigvgan_v2_44k",
        "vocoder at 44.1 kHz (NVIDIA BigVGAN v2)",
        "MIT",
        (
            of(
                BIGVGAN,
                "bigvgan_generator.pt",
                "d9fe7ec6bd0b44ed9d66973d5012d8181c1570b01e5c72df51973e241dccd357",
                489_041_291,
                holds=bigvgan_holds(128),
                inside="generator",
            ),
            of(
                BIGVGAN,
                "config.json",
                "65b7f487bfaf15256056a75f6667ef5f640214c981922a111927873705ea4ddb",
                1403,
                is_optional=True,
            ),
        ),
        main="bigvgan_generator.pt",
    ),
    Entry(
        "bigvgan_16k",
        "vocoder at 16 kHz (BigVGAN of Make-An-Audio 2)",
        "not stated; published with MMAudio",
        (
            mmaudio(
                "best_netG.pt",
                449_217_313,
                "md5:eeaf372a38a9c31c362120aba2dde292",
                "sha256:970ca75ee4d5ce583e9396a4534acb14971ea2b4f1c22e038f476680c868a789",
                holds=bigvgan_holds(80),
                inside="generator",
            ),
        ),
        main="best_netG.pt",
    ),
    Entry(
        "flan_t5_large",
        "prompt features: the encoder's sequence [77, 1024]",
        "Apache-2.0",
        (
            of(
                FLAN_T5,
                "model.safetensors",
                "a9dd06ce490f139af36e9eb77dd3758b4fd07a08a73d5a1abe5ff2591e2d388e",
                about_bytes=3_130_000_000,
                holds={
                    "shared.weight": (32_128, 1024),
                    "encoder.block.23.layer.1.DenseReluDense.wi_0.weight": (2816, 1024),
                },
            ),
            of(FLAN_T5, "config.json", "bfa5beeb5a4630a97f043f071b9b5d858c842604cff5db874680f33b56090c8c", 662),
            of(
                FLAN_T5,
                "tokenizer.json",
                "fe2ebbbbde2985be723e0ce18217853e4020c5e9d35bd07be2c27ab9d3ead57a",
                about_bytes=2_420_000,
            ),
            of(
                FLAN_T5,
                "tokenizer_config.json",
                "5d19985330a9123285cc583fc60616d083aa9df7435812b5d8bb3e749f435d56",
                about_bytes=2_540,
                is_optional=True,
            ),
            of(
                FLAN_T5,
                "special_tokens_map.json",
                "5c87151ef0f72a99d1f766a4c418bd2a1f90aaa30a8e22fe5eca9641daebb64f",
                about_bytes=2_200,
                is_optional=True,
            ),
            of(
                FLAN_T5,
                "spiece.model",
                "d60acb128cf7b7f2536e8f38a5b18a05535c9e14c7a355904270e15b0945ea86",
                about_bytes=792_000,
                is_optional=True,
            ),
        ),
    ),
    Entry(
        "clap_conditioning",
        "prompt features: CLAP text vector [512] that FluxAudio is conditioned on",
        "CC0-1.0",
        (
            clap(
                "music_speech_audioset_epoch_15_esc_89.98.pt",
                "51c68f12f9d7ea25fdaaccf741ec7f81e93ee594455410f3bca4f47f88d8e006",
            ),
        ),
        main="music_speech_audioset_epoch_15_esc_89.98.pt",
        note="not the CLAP of the scores",
    ),
    Entry(
        "clap_scoring",
        "rewards and evaluation: CLAP score, FAD-CLAP, TuneJury's ear",
        "CC0-1.0",
        (
            clap(
                "music_audioset_epoch_15_esc_90.14.pt",
                "fae3e9c087f2909c28a09dc31c8dfcdacbc42ba44c70e972b58c1bd1caf6dedd",
            ),
        ),
        main="music_audioset_epoch_15_esc_90.14.pt",
        note="not the CLAP of the conditioning",
    ),
    Entry(
        "roberta_base",
        "the tokenizer of both CLAP models",
        "MIT",
        (
            of(
                ROBERTA,
                "tokenizer.json",
                "847bbeab6174d66a88898f729d52fa8d355fafe1bea101cf960dd404581df70e",
                1_355_863,
            ),
            of(ROBERTA, "vocab.json", "9e7f63c2d15d666b52e21d250d2e513b87c9b713cfa6987a82ed89e5e6e50655", 898_823),
            of(ROBERTA, "merges.txt", "1ce1664773c50f3e0cc8842619a93edc4624525b728b188a9e0be33b7726adc5", 456_318),
            of(
                ROBERTA,
                "tokenizer_config.json",
                "994f46754c5bf4014f1aa92d34b1374319c3a6b3f702105cd5b742beaecd18ce",
                25,
                is_optional=True,
            ),
            of(
                ROBERTA,
                "config.json",
                "ef0185e2aae6e06c5f105a285006952c340e20c7dbf43c86ec82601b13fc45e9",
                481,
                is_optional=True,
            ),
        ),
    ),
    Entry(
        "mert_v1_330m",
        "TuneJury's other ear, and FAD-MERT",
        BY_NC,
        (
            of(
                MERT,
                "pytorch_model.bin",
                about_bytes=1_260_000_000,
                holds={
                    "encoder.layers.23.final_layer_norm.weight": (1024,),
                    "feature_extractor.conv_layers.0.conv.weight": (512, 1, 10),
                },
            ),
            of(MERT, "config.json", about_bytes=2_000),
            of(MERT, "preprocessor_config.json", about_bytes=300, is_optional=True),
        ),
        gated=True,
    ),
    Entry(
        "tunejury",
        "reward: the head of TuneJury (arXiv:2606.17006)",
        BY_NC,
        (
            File(
                "tunejury.pt",
                (Hub("TuneJury/tunejury", "tunejury.pt"),),
                about_bytes=11_200_000,
                checksums=("md5:0524e60900e5ee3c4046e599f613b466",),
                holds={"net.0.weight": (1024, 2048), "net.16.weight": (1, 128)},
                inside="state_dict",
            ),
        ),
        main="tunejury.pt",
    ),
    Entry(
        "demucs_mdx_extra",
        "post-processing: drops vocals, a bag of four Demucs models",
        "MIT (code); none stated for the weights",
        (
            demucs(
                "e51eebcc-c1b80bdd.th",
                167_399_275,
                "c1b80bdd6de58274abf359e66822a76f49ce2b9f086fc5dc917ac14598e6bebf",
            ),
            demucs(
                "a1d90b5c-ae9d2452.th",
                167_391_595,
                "ae9d245283bf24b552913ee233a1101dcd0aeaed59b1c0a2da0e1f6eda15101b",
            ),
            demucs(
                "5d2d6c55-db83574e.th",
                167_391_595,
                "db83574e05b2308f76e2764819da673f2d16d437b9e619f5fcb72f275fc0e24f",
            ),
            demucs(
                "cfa93e08-61801ae1.th",
                167_399_275,
                "61801ae1567d606c97a9c3469e943ae306d0a873eeb60d623ae7cfc7042b3f68",
            ),
            File("mdx_extra.yaml", content="models: ['e51eebcc', 'a1d90b5c', '5d2d6c55', 'cfa93e08']\nsegment: 44\n"),
        ),
        note="files of whole models; their tensors are read, and the classes are built by us",
    ),
)
