"""Every setting of both stages, with its source. Variants after the colon of `--config` change them (`VARIANTS`)."""

from ml_collections import ConfigDict, config_dict

from adnerf_jax.errors import UserError


def _base(stage: str) -> ConfigDict:
    config = ConfigDict()
    config.stage = stage  # head or torso: what this run trains
    config.family = "paper"  # paper or fast: which fields and samplers (variant :fast)
    config.variants = ()  # as given on the command line; names the default workdir
    config.seed = 0  # of initialisation, batches and jitter
    config.data = config_dict.placeholder(str)  # a dataset's folder; default: the built-in subject's, made on first use
    config.head_checkpoint = config_dict.placeholder(str)  # torso: workdir of its head; default: the one beside it

    config.optim = ConfigDict()
    config.optim.learning_rate = 5e-4  # section 4.1: Adam, 0.0005
    config.optim.decay = 0.1  # published code: × 0.1 …
    config.optim.decay_steps = 250_000  # … each 250k updates
    config.optim.grid_multiple = 1.0  # rate of the grids over that of the networks

    config.train = ConfigDict()
    config.train.steps = 400_000  # section 4.1: 400k iterations for each network
    config.train.rays = 2048  # section 4.1: 2048 rays a step
    config.train.frames_per_step = 1  # published code: all rays of a step from one frame
    config.train.regions = ConfigDict({"face": 0.95, "frame": 0.05})  # published code: 95% in the face rectangle
    config.train.random_background = False  # train opacity against random colours behind the person
    config.train.sampler_weight = 1.0  # weight of the proposal's interlevel loss
    config.train.audio_components = 64  # principal components of the speech features that reach AudioNet
    config.train.tuning = False  # train on nine tenths of the training frames, validate on the last tenth
    config.train.log_every = 100  # steps between lines of metrics.jsonl
    config.train.validate_every = 5_000  # steps between validation pictures
    config.train.validate_frames = 4  # pictures each time, evenly spaced over the held-out frames
    config.train.checkpoint_every = 5_000  # steps between checkpoints
    config.train.keep_checkpoints = 2  # newest ones kept

    config.render = ConfigDict()
    config.render.audio = config_dict.placeholder(str)  # sound or video file to speak
    config.render.out = config_dict.placeholder(str)  # video to write; default: <workdir>/<name of the audio>.mp4
    config.render.start = 0.0  # seconds of the sound to skip
    config.render.duration = config_dict.placeholder(float)  # seconds to render; default: all
    config.render.chunk = 4096  # rays evaluated at once

    config.eval = ConfigDict()
    config.eval.every = 1  # take each n-th held-out frame
    return config


def _fast(config: ConfigDict) -> None:
    """Minutes on two CPU cores: grid fields, a planar torso."""
    config.family = "fast"
    config.model = ConfigDict()
    head = config.model.head = ConfigDict()
    head.codes = ("audio", "lips", "eyes")  # condition codes, in this order
    head.grid = ConfigDict(dict(levels=10, features=2, table_size=2**15, coarsest=12, finest=384))
    head.shape_codes = ("lips", "eyes")  # those that weight the grids of shapes: 3 + 2 numbers
    head.shape_grid = ConfigDict(dict(levels=6, features=2, table_size=2**14, coarsest=16, finest=160))
    head.audio_code = 64  # size of the audio code
    head.width = 64  # of the two small networks
    head.geometry = 15  # features from the density network to the colour network
    head.direction_levels = 2  # positional encoding of the viewing direction
    head.proposal_resolution = 48
    head.coarse_samples = 48  # intervals of the proposal
    head.fine_samples = 10  # intervals of the field
    config.optim.decay_steps = config.train.get_oneway_ref("steps")  # tenfold over the run, however long
    config.optim.grid_multiple = 40.0
    config.train.random_background = True
    if config.stage == "head":
        config.train.steps = 2400
        config.train.rays = 1024
        config.train.frames_per_step = 8
        config.train.regions = ConfigDict({"head": 0.45, "face": 0.2, "mouth": 0.3, "frame": 0.05})
    else:
        torso = config.model.torso = ConfigDict()
        torso.grid = ConfigDict(dict(levels=10, features=2, table_size=2**15, coarsest=8, finest=512))
        torso.width = 48
        torso.deformation_width = 32
        torso.position_levels = 3
        torso.audio_channels = 4  # that the audio code is reduced to
        torso.reach = 0.1  # largest shift of a look-up, as a fraction of the image
        config.train.steps = 600
        config.train.rays = 2048
        config.train.frames_per_step = 16
        config.train.regions = ConfigDict({"torso": 1.0})
    config.train.log_every = 50
    config.train.validate_every = 1000
    config.train.checkpoint_every = 500


def _smoke(config: ConfigDict) -> None:
    """Seconds: small enough for a test of the whole way; the result is rough."""
    if config.family != "fast":
        raise UserError("the variant smoke goes with fast: use :fast,smoke")
    scale = dict(table_size=2**13, levels=6, finest=96)
    config.model.head.grid.update(scale)
    config.model.head.shape_grid.update(table_size=2**12, levels=3, finest=64)
    if config.stage == "torso":
        config.model.torso.grid.update(scale)
    config.train.steps = 200
    config.train.rays = 1024
    config.train.validate_every = config.train.checkpoint_every = 200
    config.train.validate_frames = 1


# In the order in which they apply, whatever their order on the command line.
VARIANTS = {"fast": _fast, "smoke": _smoke}


def parse_variants(arg: str | None, known: tuple[str, ...] = tuple(VARIANTS)) -> tuple[str, ...]:
    """`fast,smoke` to its names, in the order in which they apply.

    Raises:
      UserError: an unknown name.
    """
    names = [name for name in (arg or "").split(",") if name]
    unknown = [name for name in names if name not in known]
    if unknown:
        raise UserError(f"unknown variant {', '.join(unknown)}; there are: {', '.join(known)}")
    return tuple(name for name in known if name in names)


def get_config(stage: str, arg: str | None) -> ConfigDict:
    """The configuration of a stage with the variants of `arg` applied."""
    config = _base(stage)
    config.variants = parse_variants(arg)
    for name in config.variants:
        VARIANTS[name](config)
    return config.lock()
