"""Optimisation and the training loop."""

from adnerf_jax.configuration.declaration import ByStage, Derived, Group, Setting, resumable
from adnerf_jax.configuration.settings.limits import COUNT, COUNT_OR_NONE, FACTOR, RAYS

OPTIM: Group = {
    "learning_rate": Setting(5e-4, "Learning rate of Adam at the start.", "section 4.1", range=FACTOR),
    "decay": Setting(0.1, "Factor of the learning rate after `decay_steps` steps.", "published code", range=FACTOR),
    "decay_steps": Setting(
        ByStage(head=250_000, torso=750_000),
        "Steps in which the learning rate falls by the factor `decay`.",
        "published code: 250k; for the torso 500 · 1500",
        kind=int,
        range=COUNT,
    ),
    "grid_multiple": Setting(1.0, "Learning rate of the grids, as a multiple of that of the networks.", range=FACTOR),
    "attention_multiple": Setting(
        5.0,
        "Learning rate of the attention network from its second update on, as a multiple of that of the networks.",
        "published code",
        range=FACTOR,
    ),
}

TRAIN: Group = {
    "steps": Setting(400_000, "Training steps.", "section 4.1: 400k for each network", range=COUNT, resumable=True),
    "rays": Setting(2048, "Rays of a step.", "section 4.1 (published torso code: 1024)", range=RAYS),
    "micro_batches": Setting(
        8, "Micro-batches that a step's rays are computed in: the more, the less memory.", range=RAYS
    ),
    "frames_per_step": Setting(1, "Frames that a step's rays are drawn from.", "published code", range=RAYS),
    "regions": Setting(
        ByStage(head={"face": 0.95, "outside": 0.05}, torso={"frame": 1.0}),
        "Shares of the rays that are drawn from each region of the frame.",
        "published code: 95 % in the face; for the torso half from each half of the picture",
        kind=dict,
    ),
    "random_background": Setting(False, "Trains opacity against random colours behind the person."),
    "sampler_weight": Setting(0.0, "Weight of the proposal's interlevel loss.", range=FACTOR),
    "audio_components": Setting(
        29,
        "Speech features that AudioNet reads: DeepSpeech's 29; of other encoders, this number of principal components.",
        "published code",
        range=COUNT,
    ),
    "attention_from": Setting(
        ByStage(head=Derived("train.steps", divisor=2), torso=0),
        "First step in which attention smooths the audio code.",
        "published code: half of the head's steps",
        kind=int,
        range=COUNT_OR_NONE,
    ),
    "density_leak_steps": Setting(
        500,
        "Warm-up steps in which densities below 0 have a gradient, and colours have one along rays that reach the "
        "background, so that densities do not collapse to 0.",
        range=COUNT_OR_NONE,
    ),
    "tuning": Setting(False, "Trains on nine tenths of the training frames and validates on the last tenth of them."),
    **resumable(
        {
            "log_every": Setting(100, "Steps between lines of metrics.jsonl.", range=COUNT),
            "validate_every": Setting(5_000, "Steps between validations.", range=COUNT),
            "validate_frames": Setting(
                4, "Pictures of a validation, evenly spaced over the held-out frames.", range=COUNT
            ),
            "checkpoint_every": Setting(5_000, "Steps between checkpoints.", range=COUNT),
            "keep_checkpoints": Setting(2, "Newest checkpoints that are kept.", range=COUNT),
            "keep_best": Setting(
                1,
                "Checkpoints kept for their PSNR on the tuning frames (the last tenth of the training frames): they "
                "exist where checkpoint_every and validate_every coincide.",
                range=COUNT_OR_NONE,
            ),
            "on_nan": Setting(
                "stop",
                "What is done where a step's numbers are not finite: stop, or rollback: return to the newest "
                "checkpoint and leave that step's rays out.",
                choices=("stop", "rollback"),
            ),
        }
    ),
}
