"""The torso stage: learns neck and shoulders of a dataset D in front of its trained head.

    python run.py --config=configs/torso.py --config.data=D --workdir=W/torso

trains AD-NeRF as published, 400,000 steps of 2048 rays, on GPUs or TPUs; the head is the one in W/head, or in
`--config.head_checkpoint`. A full training was not measured. The paper's SSIM of head and torso is 0.92.

Variants are those of the head, which must have been trained with the same ones. Their times and results are of a
recording of 20 s at 450x450, on an x86 server CPU (GFLOP/s in float32 matrix products). PSNR is of held-out frames with
everything rendered (`full`), by `python run.py --mode=eval`:

    command                              time                                             result
    configs/torso.py:fast                19 s on two cores, 378 GFLOP/s                   30.1 dB, SSIM 0.942
    configs/torso.py:small, 2500 steps   75 minutes on one core with the head's 2500      24.3 dB, SSIM 0.861
    configs/torso.py:fast,smoke, :smoke  seconds                                          rough; tests all steps
    configs/torso.py:fast,expression     6 minutes on one core with the head              30.0 dB, SSIM 0.934

The first is by `python -m benchmarks.quickstart --video V.mp4 --audio S.wav --duration 10`, the second and the last by
`python -m benchmarks.own_table --data address=D --workdir W` on a core of 70 to 100 GFLOP/s. `single_nerf` has no torso
stage: its head stage learns the whole person.
"""

from adnerf_jax.configuration.torso import get_config

__all__ = ["get_config"]
