"""The models: heads and torsos of the two families."""

from adnerf_jax.configuration.declaration import Group, Setting, shared_with_head
from adnerf_jax.configuration.settings.limits import LEVELS, RESOLUTION, TABLE, WIDTH


def _condition_codes() -> tuple[str, ...]:
    from adnerf_jax.models.codes.registry import CODES

    return tuple(CODES)


def _audio_init(default: str) -> Setting:
    return Setting(
        default,
        "Initialisation of the audio networks: uniform, PyTorch's default, or lecun, whose codes differ more from the "
        "start, for short trainings.",
        "published code" if default == "uniform" else "",
        choices=("uniform", "lecun"),
    )


# A coarse and a fine MLP field (section 3.2; published `FaceNeRF`).
_MLP: Group = {
    "field": Setting("mlp", "Kind of the field; it follows from the family.", choices=("mlp",)),
    "width": Setting(256, "Width of the density layers.", "published code: 8 layers of 256", range=WIDTH),
    "depth": Setting(8, "Number of density layers.", "published code: 8 layers of 256", range=(2, 64)),
    "skip": Setting(4, "Layer, from 0, after which the input enters again.", "published code: skips", range=(0, 64)),
    "colour_width": Setting(128, "Width of the colour layers.", "published code: half the width", range=WIDTH),
    "colour_depth": Setting(3, "Number of colour layers.", "published code", range=(1, 64)),
    "position_levels": Setting(10, "Frequencies of the encoded position.", "published code: multires", range=LEVELS),
    "direction_levels": Setting(
        4, "Frequencies of the encoded viewing direction.", "published code: multires_views", range=LEVELS
    ),
    # A weighted draw needs two positions between which to draw, and the background is the last one.
    "coarse_samples": Setting(
        64, "Samples of a ray at which the coarse field is evaluated.", "published code: N_samples", range=(3, WIDTH[1])
    ),
    "fine_samples": Setting(
        128, "Further samples, drawn by the coarse weights.", "published code: N_importance", range=WIDTH
    ),
    "rematerialise": Setting(
        False,
        "Computes activations twice rather than keep them: less memory on GPUs and TPUs for a third more time. XLA for "
        "CPUs undoes it: use train.micro_batches there.",
    ),
    "dtype": Setting(
        "float32",
        "Type of the factors of matrix products: float32, or bfloat16 for GPUs and TPUs.",
        choices=("float32", "bfloat16"),
    ),
}


def _grid(levels: int, features: int, table_size: int, coarsest: int, finest: int) -> Group:
    return {
        "levels": Setting(levels, "Levels of the hash grid.", range=(1, 32)),
        "features": Setting(features, "Features of an entry.", range=(1, 64)),
        "table_size": Setting(table_size, "Entries of a level's table at most.", range=TABLE),
        "coarsest": Setting(coarsest, "Cells along an axis of the coarsest level.", range=RESOLUTION),
        "finest": Setting(finest, "Cells along an axis of the finest level.", range=RESOLUTION),
    }


_PAPER_HEAD: Group = {
    # Recomputing activations changes nothing of what a head renders.
    **{name: one for name, one in shared_with_head(_MLP).items() if name != "rematerialise"},
    "rematerialise": _MLP["rematerialise"],
    **shared_with_head(
        {
            "codes": Setting(("audio",), "Condition codes, in order.", "section 3.2", choices=_condition_codes),
            "audio_code": Setting(64, "Size of the audio code.", "published code: dim_aud", range=WIDTH),
            "audio_init": _audio_init("uniform"),
        }
    ),
}

_PAPER_TORSO: Group = {
    **_MLP,
    "pose_levels": Setting(
        3, "Frequencies of the encoded angles and translation of the head.", "published code", range=LEVELS
    ),
}

_FAST_HEAD: Group = shared_with_head(
    {
        "field": Setting("grid", "Kind of the field; it follows from the family.", choices=("grid",)),
        "codes": Setting(
            ("audio", "lips", "eyes"),
            "Condition codes, in order; the first one conditions the torso as well.",
            choices=_condition_codes,
        ),
        "grid": _grid(10, 2, 2**15, 12, 384),
        "shape_codes": Setting(
            ("lips", "eyes"), "Those of the codes whose numbers weight the grids of shapes.", choices=_condition_codes
        ),
        "shape_grid": _grid(6, 2, 2**14, 16, 160),
        "audio_code": Setting(64, "Size of the audio code.", range=WIDTH),
        "audio_init": _audio_init("lecun"),
        "width": Setting(64, "Width of the density and the colour network.", range=WIDTH),
        "geometry": Setting(15, "Features that the density network passes to the colour network.", range=(0, WIDTH[1])),
        "direction_levels": Setting(2, "Frequencies of the encoded viewing direction.", range=LEVELS),
        "proposal_resolution": Setting(48, "Cells along an axis of the proposal's density grid.", range=(1, 1024)),
        "coarse_samples": Setting(48, "Intervals of a ray in which the proposal is evaluated.", range=WIDTH),
        "fine_samples": Setting(10, "Intervals of a ray in which the field is evaluated.", range=WIDTH),
    }
)

_FAST_TORSO: Group = {
    "field": Setting("planar", "Kind of the field; it follows from the family.", choices=("planar",)),
    "grid": _grid(10, 2, 2**15, 8, 512),
    "width": Setting(48, "Width of the colour network.", range=WIDTH),
    "deformation_width": Setting(32, "Width of the deformation network.", range=WIDTH),
    "position_levels": Setting(3, "Frequencies of the encoded position.", range=LEVELS),
    "audio_channels": Setting(4, "Numbers that the head's first code is reduced to.", range=WIDTH),
    "reach": Setting(0.1, "Largest shift of a look-up, as a fraction of the picture.", range=(0, 1)),
}

# By family, then by stage.
MODEL: dict[str, dict[str, Group]] = {
    "paper": {"head": _PAPER_HEAD, "torso": _PAPER_TORSO},
    "fast": {"head": _FAST_HEAD, "torso": _FAST_TORSO},
}
