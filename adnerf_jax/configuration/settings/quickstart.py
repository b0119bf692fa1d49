"""The quickstart's own settings; it has those of both stages as well, in `head` and `torso`."""

from adnerf_jax.configuration.declaration import Group, Setting
from adnerf_jax.configuration.settings.limits import COUNT


def _encoders() -> tuple[str, ...]:
    from adnerf_jax.speech.features import ENCODERS

    return tuple(ENCODERS)


QUICKSTART: Group = {
    "stage": Setting("quickstart", "What the run does.", choices=("quickstart",)),
    "variants": Setting(("quickstart",), "Quickstart, and the variants given; they name the default workdir."),
    "video": Setting(None, "Portrait video with sound; by default the built-in subject's.", kind=str),
    "audio": Setting(
        None, "Sound or video file with the speech; by default the built-in speech, or else the video's own.", kind=str
    ),
    "start": Setting(0.0, "Seconds of the speech to skip."),
    "duration": Setting(None, "Seconds of the speech to render; by default all.", kind=float),
    "speech": Setting("whisper", "Encoder of the speech; logmel needs no weights.", choices=_encoders),
    "parsing": Setting(
        "bisenet",
        "Parsing of the frames: by bisenet, whose weights are for non-commercial use only, or permissive, for any use.",
        choices=("bisenet", "permissive"),
    ),
    "subject": {
        "size": Setting(256, "Side of the built-in subject's frames in pixels.", range=(64, 1024)),
        "seconds": Setting(10.0, "Seconds of the built-in subject's video.", range=(2.0, 600.0)),
        "driving_seconds": Setting(4.0, "Seconds of the built-in speech.", range=(0.5, 600.0)),
        # A small clip without skin, hair or cloth in fine detail is learned sooner than a person.
        "head_steps": Setting(1200, "Training steps of the built-in subject's head at most.", range=COUNT),
    },
}
