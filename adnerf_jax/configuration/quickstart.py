"""The whole way: dataset → head → torso → evaluation → talking video with sound.

    python run.py --config=configs/quickstart.py                       # the built-in subject
    python run.py --config=configs/quickstart.py --config.video=V.mp4 --config.audio=S.wav

writes `dataset/ head/ torso/ talking.mp4 summary.json` into the workdir (`runs/quickstart` by default). A finished step
is skipped when the command is run again. Variant `smoke`: a 2 s clip of 96x96 pixels, in seconds.
"""

from ml_collections import ConfigDict, config_dict

from adnerf_jax.configuration import base as common


def get_config(arg: str | None = None) -> ConfigDict:
    """The configuration; `arg` is what follows the colon of `--config`."""
    variants = common.parse_variants(arg, known=("smoke",))
    smoke = "smoke" in variants
    stages = ",".join(("fast", *variants))
    config = ConfigDict()
    config.stage = "quickstart"
    config.variants = ("quickstart", *variants)
    config.video = config_dict.placeholder(str)  # portrait video with sound; default: the built-in subject
    config.audio = config_dict.placeholder(
        str
    )  # what to say; default: the built-in driving speech, else the video's own
    config.start = 0.0  # seconds of the sound to skip
    config.duration = config_dict.placeholder(float)  # seconds of the sound to speak; default: all
    config.speech = "whisper"  # whisper, or logmel, which needs no weights
    config.parsing = "bisenet"  # bisenet, for non-commercial use only, or permissive, for any
    config.subject = ConfigDict()
    config.subject.size = 96 if smoke else 256  # pixels
    config.subject.seconds = 2.0 if smoke else 10.0  # of the training clip
    config.subject.driving_seconds = 2.0 if smoke else 4.0  # of the driving speech
    # A small clip without skin, hair or cloth in fine detail is learned sooner than a person.
    config.subject.head_steps = 200 if smoke else 1200  # at most
    config.head = common.get_config("head", stages)
    config.torso = common.get_config("torso", stages)
    return config.lock()
