"""The head stage: learns the head of a dataset D, a portrait video of one person.

    python run.py --config=configs/head.py --config.data=D --workdir=W/head

trains AD-NeRF as published, 400,000 steps of 2048 rays, on GPUs or TPUs. Predicted, not measured: 33 ms a step on one
H100, by `python -m benchmarks.scaling`. The paper's SSIM of head and torso is 0.92.

Variants stand after a colon and combine by commas. Their times and results are of a recording of 20 s at 450x450, on an
x86 server CPU (GFLOP/s in float32 matrix products). PSNR is of held-out frames, by `python run.py --mode=eval`:

    command                             time                                    result
    configs/head.py:fast                88 s on two cores, 378 GFLOP/s          36.1 dB, SSIM 0.967 in head_only
    configs/head.py:small               20 minutes on two cores                 34.4 dB, SSIM 0.943 in head_only
    configs/head.py:fast,smoke, :smoke  seconds                                 rough; a test that all steps work
    configs/head.py:fast,single_nerf    3 minutes on one core, 70-100 GFLOP/s   23.1 dB, SSIM 0.887 in full
    configs/head.py:fast,expression     6 minutes on one core, with the torso   35.2 dB in head_only

The first is by `python -m benchmarks.quickstart --video V.mp4 --audio S.wav --duration 10`, the last two by
`python -m benchmarks.own_table --data address=D --workdir W`, which without the ablation gives 36.1 dB in head_only and
30.2 dB in full. What each variant changes is in `adnerf_jax/configuration/variants.py`, every setting in
`docs/configuration.md`.
"""

from adnerf_jax.configuration.head import get_config

__all__ = ["get_config"]
