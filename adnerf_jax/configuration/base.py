"""Every setting of both stages, with its source. Variants after the colon of `--config` change them (`VARIANTS`)."""

from ml_collections import ConfigDict, config_dict

from adnerf_jax.common.errors import UserError


def _base(stage: str) -> ConfigDict:
    """AD-NeRF as published: every value with its place in the paper, or in the published code where that is silent."""
    config = ConfigDict()
    config.stage = stage  # head or torso: what this run trains
    config.family = "paper"  # paper or fast: which fields and samplers (variant :fast)
    config.variants = ()  # as given on the command line; names the default workdir
    config.seed = 0  # of initialisation, batches and jitter
    config.data = config_dict.placeholder(str)  # a dataset's folder; default: the built-in subject's, made on first use
    config.size = config_dict.placeholder(int)  # shrink frames to so many pixels; default: as they are
    config.subject = {"head": "head", "torso": "person"}[stage]  # section 3.4: what the stage's target shows
    config.head_checkpoint = config_dict.placeholder(str)  # torso: workdir of its head; default: the one beside it

    config.compat = _compat()
    config.model = ConfigDict()
    config.model.head = _field()
    config.model.head.codes = ("audio",)  # section 3.2: what the head is conditioned on
    config.model.head.audio_code = 64  # published code: dim_aud
    config.model.head.audio_init = "uniform"  # first values of the audio nets: PyTorch's, as published
    if stage == "torso":
        config.model.torso = _field()
        config.model.torso.pose_levels = 3  # published code: L of angles and translation

    config.optim = ConfigDict()
    config.optim.learning_rate = 5e-4  # section 4.1: Adam, 0.0005
    config.optim.decay = 0.1  # published code: × 0.1 …
    # … each 250k updates; in the published torso code each 500 · 1500.
    config.optim.decay_steps = 250_000 if stage == "head" else 750_000
    config.optim.grid_multiple = 1.0  # rate of the grids over that of the networks
    config.optim.attention_multiple = 5.0  # published code: rate of the attention net, from its second update on

    config.train = ConfigDict()
    config.train.steps = 400_000  # section 4.1: 400k iterations for each network
    config.train.rays = 2048  # section 4.1: 2048 rays a step (published torso code: 1024)
    config.train.micro_batches = 8  # parts that a step's rays are computed in, for memory
    config.train.frames_per_step = 1  # published code: all rays of a step from one frame
    # Published code: 95% in the face rectangle for the head; for the torso as many on each half of the picture.
    regions = {"face": 0.95, "outside": 0.05} if stage == "head" else {"frame": 1.0}
    config.train.regions = ConfigDict(regions)
    config.train.random_background = False  # train opacity against random colours behind the person
    config.train.sampler_weight = 0.0  # weight of the proposal's interlevel loss
    config.train.audio_components = 29  # features that reach AudioNet: DeepSpeech's 29; of others so many components
    # Published code: attention smooths the audio code in the head's second half, and in the torso stage.
    config.train.attention_from = config.train.get_oneway_ref("steps") // 2 if stage == "head" else 0
    config.train.density_leak_steps = 500  # steps in which a haze teaches colours, and densities below 0 may come back
    config.train.tuning = False  # train on nine tenths of the training frames, validate on the last tenth
    config.train.log_every = 100  # steps between lines of metrics.jsonl
    config.train.validate_every = 5_000  # steps between validation pictures
    config.train.validate_frames = 4  # pictures each time, evenly spaced over the held-out frames
    config.train.checkpoint_every = 5_000  # steps between checkpoints
    config.train.keep_checkpoints = 2  # newest ones kept
    config.train.keep_best = 1  # and those of the best validation pictures; a multiple of validate_every has some
    # When a step's numbers are not finite: stop, or rollback to the newest checkpoint and leave that step's rays out.
    config.train.on_nan = "stop"

    config.render = ConfigDict()
    config.render.audio = config_dict.placeholder(str)  # sound or video file to speak
    config.render.features = config_dict.placeholder(str)  # its DeepSpeech features, where those were learned from
    config.render.out = config_dict.placeholder(str)  # .mp4, .webm, .mov, .png; default: <workdir>/<audio's name>.mp4
    config.render.start = 0.0  # seconds of the sound to skip
    config.render.duration = config_dict.placeholder(float)  # seconds to render; default: all
    config.render.chunk = 1024  # rays evaluated at once
    config.render.pose = "mirror"  # mirror, forward, random, rest, frame:N, or a .json, .csv or video file
    config.render.offset = config_dict.placeholder(str)  # yaw=8,y=-1 (degrees, cm), or a .json or .csv file of curves
    config.render.smooth = 0.0  # seconds that poses are averaged over (standard deviation)
    config.render.clamp = False  # keep poses within the range of the training video's
    config.render.background = "original"  # original, blur, none (transparent), a colour, a picture or a video
    config.render.camera = config_dict.placeholder(str)  # yaw=10,pitch=0 (degrees around the head),zoom=1.2,focal=900
    config.render.eyes = "blinks"  # blinks, pose (as in the poses' video), 0 (closed) … 1 (open), or a file of a curve
    config.render.size = config_dict.placeholder(str)  # 512 (longer side) or 640x360; default: as learned
    config.render.crop = config_dict.placeholder(str)  # x,y,width,height as fractions of the learned picture
    config.render.seed = 0  # of random parts of the video and of blinks
    config.render.shard = config_dict.placeholder(str)  # 2/4: render every fourth frame from the second on, join later
    config.render.label = True  # say in the file that it is synthetic, and by which model
    config.render.occupancy = 96  # cells along each axis of the grid that tells where nothing is; 0: ask everywhere

    config.eval = ConfigDict()
    config.eval.every = 1  # take each n-th held-out frame
    config.eval.tracked_expression = False  # an expression code as tracked, not as estimated from the speech
    config.eval.attention = True  # the audio code as attention smooths it; not for a head trained without attention
    config.eval.lpips = "alex"  # networks of LPIPS: alex, vgg, both by a comma, or none; fetched on first use
    config.eval.faces = True  # measure lips, expression and steadiness by a landmark network
    config.eval.syncnet = config_dict.placeholder(str)  # the published syncnet_v2.model (section 4.3)
    # Other speech to judge without a truth: a sound or video file (with render.features where a person needs those).
    config.eval.cross = config_dict.placeholder(str)
    config.eval.cross_duration = 10.0  # seconds of it
    config.eval.report = True  # write eval/report.html, with a film of truth and render inside
    config.eval.shard = config_dict.placeholder(str)  # 2/4: render every fourth frame from the second on, judge later
    config.eval.save_frames = False  # write renders and truth to eval/frames/ as PNG, for OpenFace or to look at
    # OpenFace's csv of eval/frames/full (the head stage's: head) and of eval/frames/truth, for the action unit error.
    config.eval.openface_render = config_dict.placeholder(str)
    config.eval.openface_truth = config_dict.placeholder(str)

    config.compare = ConfigDict()  # --mode=compare
    # By commas: folders of evaluated stages, and videos of the same frames; name=PATH gives one a name.
    config.compare.runs = config_dict.placeholder(str)
    config.compare.setting = "full"  # what the videos show: full, head (true torso and background) or head_only
    config.compare.resamples = 2000  # of the frames, for the intervals

    config.reference = ConfigDict()  # --mode=import: checkpoints of the published code
    config.reference.head = config_dict.placeholder(str)  # *_head.tar
    config.reference.body = config_dict.placeholder(str)  # *_body.tar
    return config


def _compat() -> ConfigDict:
    """Known mistakes of the published code: all of them by `reference`, or one at a time."""
    compat = ConfigDict()
    compat.reference = False  # everything below as the published code has it
    for name in (
        "torso_angles",  # pose_to_euler_trans: arguments of the arctangents interchanged
        "face_rect",  # head stage: rows and columns of the rectangle interchanged
        "zero_padding",  # past the clip's ends, windows of zeros beside the frame
        "window_lists",  # neighbouring windows by place in the split, not by time
        "rough_validation",  # validation pictures without the attention's smoothing
        "dead_density",  # densities below 0 have no gradient from the first step on: for most seeds all of them die
    ):
        compat[name] = compat.get_oneway_ref("reference")
    return compat


def _field() -> ConfigDict:
    """Two MLP fields and where they are asked (section 3.2; published `FaceNeRF`)."""
    model = ConfigDict()
    model.field = "mlp"
    model.width = 256  # published code: 8 layers of 256
    model.depth = 8
    model.skip = 4  # published code: the input enters again after the fifth layer
    model.colour_width = 128  # published code: half the width …
    model.colour_depth = 3  # … three times
    model.position_levels = 10  # published code: multires
    model.direction_levels = 4  # published code: multires_views
    model.coarse_samples = 64  # published code: N_samples
    model.fine_samples = 128  # published code: N_importance
    # Compute activations twice rather than keep them: less memory on GPUs and TPUs for a third more time. XLA for CPUs
    # undoes it; there train.micro_batches is what saves memory.
    model.rematerialise = False
    model.dtype = "float32"  # factors of matrix products: float32, or bfloat16 for TPUs and GPUs
    return model


def _fast(config: ConfigDict) -> None:
    """Minutes on two CPU cores: grid fields, a planar torso."""
    config.family = "fast"
    config.model = ConfigDict()
    head = config.model.head = ConfigDict()
    head.field = "grid"
    head.codes = ("audio", "lips", "eyes")  # condition codes, in this order
    head.grid = ConfigDict(dict(levels=10, features=2, table_size=2**15, coarsest=12, finest=384))
    head.shape_codes = ("lips", "eyes")  # those that weight the grids of shapes: 3 + 2 numbers
    head.shape_grid = ConfigDict(dict(levels=6, features=2, table_size=2**14, coarsest=16, finest=160))
    head.audio_code = 64  # size of the audio code
    head.audio_init = "lecun"  # first values of the audio nets: a few thousand steps have no time to tell codes apart
    head.width = 64  # of the two small networks
    head.geometry = 15  # features from the density network to the colour network
    head.direction_levels = 2  # positional encoding of the viewing direction
    head.proposal_resolution = 48
    head.coarse_samples = 48  # intervals of the proposal
    head.fine_samples = 10  # intervals of the field
    config.optim.decay_steps = config.train.get_oneway_ref("steps")  # tenfold over the run, however long
    config.optim.grid_multiple = 40.0
    config.optim.attention_multiple = 1.0
    config.train.random_background = True
    config.train.density_leak_steps = 0  # a density of exp is never 0
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
        torso = config.model.torso = ConfigDict()
        torso.field = "planar"
        torso.grid = ConfigDict(dict(levels=10, features=2, table_size=2**15, coarsest=8, finest=512))
        torso.width = 48
        torso.deformation_width = 32
        torso.position_levels = 3
        torso.audio_channels = 4  # that the head's first code is reduced to
        torso.reach = 0.1  # largest shift of a look-up, as a fraction of the image
        config.train.steps = 600
        config.train.rays = 2048
        config.train.frames_per_step = 16
        config.train.regions = ConfigDict({"torso": 1.0})
    config.train.log_every = 50
    config.train.validate_every = 1000
    config.train.checkpoint_every = 500


def _small(config: ConfigDict) -> None:
    """The paper's method at the size that two CPU cores can train: 112 pixels, a quarter of the width."""
    if config.family != "paper":
        raise UserError("the variant small goes with the paper's family: leave fast out")
    config.size = 112
    for model in config.model.values():
        model.update(width=64, colour_width=32, coarse_samples=32, fine_samples=64)
    config.optim.decay_steps = config.train.get_oneway_ref("steps")
    config.train.update(steps=5000, rays=1024, micro_batches=4)
    config.train.validate_every = config.train.checkpoint_every = 1000


def _single_nerf(config: ConfigDict) -> None:
    """Ablation (section 4.2): one field for head and torso, turned with the head as a whole."""
    if config.stage != "head":
        raise UserError("with the variant single_nerf the head stage learns the whole person: there is no torso stage")
    config.subject = "person"
    if config.family == "paper":
        # The published code has no such stage: half of the rays in the face, half anywhere.
        config.train.regions = ConfigDict({"face": 0.5, "frame": 0.5})
    else:
        config.train.regions = ConfigDict({"head": 0.25, "torso": 0.35, "face": 0.1, "mouth": 0.2, "frame": 0.1})


def _expression(config: ConfigDict) -> None:
    """Ablation (section 4.2): an expression code instead of the audio code: blendshapes, estimated from the speech."""
    codes = config.model.head.codes
    config.model.head.codes = tuple("expression" if name == "audio" else name for name in codes)


def _smoke(config: ConfigDict) -> None:
    """Seconds: small enough for a test of the whole way; the result is rough."""
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


# In the order in which they apply, whatever their order on the command line.
VARIANTS = {
    "fast": _fast,
    "small": _small,
    "smoke": _smoke,
    "single_nerf": _single_nerf,
    "expression": _expression,
}


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
