"""What names a run, the mistakes of the published code, and its checkpoints to import."""

from adnerf_jax.configuration.declaration import ByStage, Derived, Group, Setting, resumable, shared_with_head
from adnerf_jax.configuration.settings.limits import SEED


def _subjects() -> tuple[str, ...]:
    from adnerf_jax.data.datasets import SUBJECTS

    return tuple(SUBJECTS)


RUN: Group = {
    "stage": Setting(ByStage("head", "torso"), "What the run trains.", kind=str, choices=("head", "torso")),
    "family": Setting(
        "paper", "Which fields and samplers are used; the variant fast sets it.", choices=("paper", "fast")
    ),
    "variants": Setting((), "The variants given on the command line; they name the default workdir.", resumable=True),
    "seed": Setting(0, "Seed of the initialisation, of the batches and of the jitter of samples.", range=SEED),
    "data": Setting(
        None,
        "Folder of the dataset; by default the built-in subject's, which is made on first use. When a training is "
        "resumed, the contents must be the same.",
        kind=str,
        resumable=True,
    ),
    "size": Setting(
        None, "Longer side, in pixels, that frames are shrunk to, 16 or more; by default as they are.", kind=int
    ),
    "subject": Setting(
        ByStage("head", "person"), "What the target pictures show.", "section 3.4", kind=str, choices=_subjects
    ),
    "head_checkpoint": Setting(
        None,
        "Workdir of the torso's head; by default `head` beside the torso's. When a training is resumed, the head's "
        "parameters must be the same.",
        kind=str,
        resumable=True,
    ),
}


def _mistake(about: str) -> Setting:
    return Setting(Derived("compat.reference"), about, "published code", kind=bool)


COMPAT: Group = {
    "reference": Setting(False, "Brings back all of the following mistakes of the published code."),
    "torso_angles": _mistake("Interchanges the arguments of the arctangents in the head's angles."),
    "face_rect": _mistake("Interchanges rows and columns of the face rectangle, so that many rays miss the face."),
    **shared_with_head(
        {
            "zero_padding": _mistake("Takes windows of zeros for the speech before and after the clip."),
            "window_lists": _mistake("Takes neighbouring windows by their place in the split, not by time."),
        }
    ),
    "rough_validation": _mistake("Renders validation pictures without the attention's smoothing."),
    "dead_density": _mistake(
        "Gives densities below 0 no gradient in the first steps either, so that for many seeds they collapse to 0."
    ),
}

REFERENCE: Group = resumable(
    {
        "head": Setting(None, "Checkpoint of the published code to import: `*_head.tar`.", kind=str),
        "body": Setting(None, "Checkpoint of the published code to import: `*_body.tar`.", kind=str),
    }
)
