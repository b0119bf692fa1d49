"""The quickstart: dataset, head, torso, evaluation and a talking video with sound, by one command.

    python run.py --config=configs/quickstart.py                                             # the built-in subject
    python run.py --config=configs/quickstart.py --config.video=V.mp4 --config.audio=S.wav   # your own video

It writes `dataset/`, `head/`, `torso/`, `talking.mp4` and `summary.json` into the workdir (`runs/quickstart` by
default). A finished step is skipped when the command is run again.

Times and results on two cores of an x86 server CPU (GFLOP/s in float32 matrix products), weights and compiled programs
cached; PSNR is of held-out frames:

    command                    time                    head_only           full
    built-in subject, 256x256  114 s, 442 GFLOP/s      29.2 dB, 0.926      24.3 dB, 0.826 (SSIM)
    20 s of 450x450            270 s, 378 GFLOP/s      36.1 dB, 0.967      30.1 dB, 0.942
    60 s of 256x256            279 s, 448 GFLOP/s      32.8 dB, 0.933      30.9 dB, 0.919
    configs/quickstart.py:smoke, a 2 s clip of 96x96 pixels: seconds; rough, a test that all steps work

by `python -m benchmarks.quickstart`, and with `--video V.mp4 --audio S.wav --duration 10` (4 for the last).
"""

from adnerf_jax.configuration.quickstart import get_config

__all__ = ["get_config"]
