"""The variants: functions that change the values of a stage's configuration.

Each names a command, the time it takes and what comes out, on a recording of 20 s at 450x450 and an x86 server CPU,
whose speed is that of float32 matrix products. PSNR is of held-out frames, by `python run.py --mode=eval`.
"""

from ml_collections import ConfigDict

from adnerf_jax.common.errors import UserError


def fast(config: ConfigDict) -> None:
    """Hash grids, a density grid that proposes where to sample, and a planar torso: minutes on two CPU cores.

    `python run.py --config=configs/head.py:fast --config.data=D`, then `configs/torso.py:fast`: 88 s and 19 s on two
    cores (378 GFLOP/s), 36.1 dB in `head_only` and 30.1 dB in `full`, by
    `python -m benchmarks.quickstart --video V.mp4`.
    """
    config.optim.decay_steps = config.train.get_oneway_ref("steps")  # tenfold over the run, however long
    config.optim.grid_multiple = 40.0
    config.optim.attention_multiple = 1.0
    config.train.random_background = True
    config.train.density_leak_steps = 0  # an exponential density is never 0
    config.train.sampler_weight = 1.0
    config.train.audio_components = 64
    config.train.attention_from = 0
    config.train.micro_batches = 1
    config.render.chunk = 4096
    if config.stage == "head":
        config.train.steps = 2600
        config.train.rays = 1024
        config.train.frames_per_step = 8
        config.train.regions = ConfigDict({"head": 0.45, "face": 0.2, "mouth": 0.3, "frame": 0.05})
    else:
        config.train.steps = 600
        config.train.rays = 2048
        config.train.frames_per_step = 16
        config.train.regions = ConfigDict({"torso": 1.0})
    config.train.log_every = 50
    config.train.validate_every = 1000
    config.train.checkpoint_every = 500


def small(config: ConfigDict) -> None:
    """The paper's method at the size that two CPU cores can train: 112 pixels, a quarter of the width.

    `python run.py --config=configs/head.py:small --config.data=D`: 20 minutes on two cores, 34.4 dB in `head_only`.
    Head and torso of 2500 steps each: 75 minutes on one core (70 to 100 GFLOP/s), 24.3 dB in `full`, by
    `python -m benchmarks.own_table`.
    """
    if config.family != "paper":
        raise UserError("the variant small goes with the paper's family: leave fast out")
    config.size = 112
    for model in config.model.values():
        model.update(width=64, colour_width=32, coarse_samples=32, fine_samples=64)
    config.optim.decay_steps = config.train.get_oneway_ref("steps")
    config.train.update(steps=5000, rays=1024, micro_batches=4)
    config.train.validate_every = config.train.checkpoint_every = 1000


def smoke(config: ConfigDict) -> None:
    """Small enough for a test of all steps.

    `python run.py --config=configs/head.py:fast,smoke --config.data=D`, or `configs/head.py:smoke`: seconds; the result
    is rough, and not measured.
    """
    if config.family == "fast":
        scale = dict(table_size=2**13, levels=6, finest=96)
        config.model.head.grid.update(scale)
        config.model.head.shape_grid.update(table_size=2**12, levels=3, finest=64)
        if config.stage == "torso":
            config.model.torso.grid.update(scale)
    else:
        config.size = 48
        for model in config.model.values():
            model.update(width=32, colour_width=16, coarse_samples=16, fine_samples=16)
        config.train.micro_batches = 1
        config.render.occupancy = 32
    config.train.steps = 200
    config.train.rays = 1024
    config.train.validate_every = config.train.checkpoint_every = 200
    config.train.validate_frames = 1


def single_nerf(config: ConfigDict) -> None:
    """Ablation (section 4.2): one field for head and torso, which turns with the head as a whole.

    `python run.py --config=configs/head.py:fast,single_nerf --config.data=D`: 3 minutes on one core (70 to 100
    GFLOP/s), 23.1 dB in `full`, where two fields have 30.2 dB, by `python -m benchmarks.own_table`.
    """
    if config.stage != "head":
        raise UserError("with the variant single_nerf the head stage learns the whole person: there is no torso stage")
    config.subject = "person"
    if config.family == "paper":
        # The published code has no such stage: half of the rays in the face, half anywhere.
        config.train.regions = ConfigDict({"face": 0.5, "frame": 0.5})
    else:
        config.train.regions = ConfigDict({"head": 0.25, "torso": 0.35, "face": 0.1, "mouth": 0.2, "frame": 0.1})


def expression(config: ConfigDict) -> None:
    """Ablation (section 4.2): an expression code instead of the audio code: blendshapes, estimated from the speech.

    `python run.py --config=configs/head.py:fast,expression --config.data=D`, then `configs/torso.py:fast,expression`:
    6 minutes on one core (70 to 100 GFLOP/s), 30.0 dB in `full`, where the audio code has 30.2 dB, by
    `python -m benchmarks.own_table`.
    """
    codes = config.model.head.codes
    config.model.head.codes = tuple("expression" if name == "audio" else name for name in codes)
