"""Evaluation of held-out frames, and comparison of runs. All of it may change when a training is resumed."""

from adnerf_jax.configuration.declaration import Group, Setting, resumable
from adnerf_jax.configuration.settings.limits import COUNT

EVAL: Group = resumable(
    {
        "every": Setting(1, "Evaluates each n-th held-out frame.", range=COUNT),
        "tracked_codes": Setting(
            None,
            "Condition codes, separated by commas, whose inputs are those tracked in the held-out frames, though a new "
            "recording has none (expression); those of codes that a renderer drives (eyes) always are.",
            kind=str,
        ),
        "attention": Setting(
            True, "Smooths the audio code by attention; turn it off for a head that was trained without."
        ),
        "lpips": Setting(
            "alex", "Networks of LPIPS, separated by commas: alex, vgg, or none. Weights are fetched on first use."
        ),
        "faces": Setting(True, "Measures lips, expression and steadiness by a landmark network."),
        "syncnet": Setting(None, "The published syncnet_v2.model, to measure by SyncNet.", "section 4.3", kind=str),
        "cross": Setting(
            None,
            "Sound or video file of other speech, to evaluate without ground truth; with render.features for a person "
            "that needs them.",
            kind=str,
        ),
        "cross_duration": Setting(10.0, "Seconds of that speech."),
        "report": Setting(True, "Writes eval/report.html, with a video of ground truth and render inside."),
        "shard": Setting(
            None,
            "2/4 renders every fourth frame from the second on; without it, a later run measures all of them.",
            kind=str,
        ),
        "save_frames": Setting(
            False, "Writes renders and ground truth to eval/frames/ as PNG, for OpenFace or others."
        ),
        "openface_render": Setting(
            None,
            "OpenFace's csv file of eval/frames/full (in a head stage eval/frames/head), for the action unit error.",
            kind=str,
        ),
        "openface_truth": Setting(
            None, "OpenFace's csv file of eval/frames/truth, for the action unit error.", kind=str
        ),
    }
)

COMPARE: Group = resumable(
    {
        "runs": Setting(
            None,
            "What to compare, separated by commas: folders of evaluated stages, and videos of the same frames. "
            "name=PATH gives one a name.",
            kind=str,
        ),
        "setting": Setting(
            "full",
            "What the videos show: full, head (true torso and background) or head_only.",
            choices=("head_only", "head", "full"),
        ),
        "resamples": Setting(2000, "Resamples of the frames, for confidence intervals.", range=(1, 10**5)),
    }
)
