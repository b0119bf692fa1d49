"""What is rendered, and how. All of it may change when a training is resumed."""

from adnerf_jax.configuration.declaration import Group, Setting, resumable
from adnerf_jax.configuration.settings.limits import RAYS, SEED

# Arguments of the condition codes that can be driven (`models.codes.driven`).
DRIVEN: Group = {
    "eyes": Setting(
        "blinks",
        "Opening of the eyes: blinks (random ones), pose (as in the video of the poses), a number from 0 (closed) "
        "to 1 (open), or a file with a curve.",
    ),
}
RENDER: Group = resumable(
    {
        "audio": Setting(None, "Sound or video file with the speech.", kind=str),
        "audio_track": Setting(
            None,
            "Sound track of that file, counted from 1; by default the one marked as default, or the first that is not "
            "silent.",
            kind=int,
        ),
        "features": Setting(
            None, "DeepSpeech features of the speech, for a person that was trained on such.", kind=str
        ),
        "out": Setting(
            None,
            "File to write: .mp4, .webm, .mov or .png; by default an .mp4 in the workdir, named like the audio.",
            kind=str,
        ),
        "start": Setting(0.0, "Seconds of the speech to skip."),
        "duration": Setting(None, "Seconds of the speech to render; by default all.", kind=float),
        "chunk": Setting(1024, "Rays that are evaluated at once.", range=RAYS),
        "pose": Setting(
            "mirror",
            "Head poses: mirror (the training video back and forth), forward, random, rest, frame:N, or a .json, .csv "
            "or video file.",
        ),
        "offset": Setting(
            None,
            "Added to the poses: yaw=8,y=-1 (degrees, centimetres), or a .json or .csv file of curves.",
            kind=str,
        ),
        "smooth": Setting(0.0, "Seconds, at most 60, over which poses are averaged (standard deviation)."),
        "clamp": Setting(False, "Keeps poses within the range of the training video's."),
        "background": Setting(
            "original", "Background: original, blur, none (transparent), a colour, a picture or a video."
        ),
        "camera": Setting(
            None,
            "Camera: yaw=10,pitch=0 (degrees around the head), zoom=1.2, focal=900, separated by commas.",
            kind=str,
        ),
        **DRIVEN,
        "size": Setting(
            None, "Size of the picture: 512 (longer side) or 640x360; by default that of the training frames.", kind=str
        ),
        "crop": Setting(None, "Part of the picture: x,y,width,height as fractions of the training frames.", kind=str),
        "seed": Setting(0, "Seed of random poses and blinks.", range=SEED),
        "shard": Setting(
            None,
            "2/4 renders every fourth frame from the second on; without it, a later run joins the parts.",
            kind=str,
        ),
        "label": Setting(True, "Records in the file's metadata that it is synthetic, and by which model."),
        "occupancy": Setting(
            96,
            "Cells along an axis of the occupancy grid that skips empty space; 0: every sample is evaluated.",
            range=(0, 512),
        ),
    }
)
