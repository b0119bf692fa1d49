"""The whole way: dataset → head → torso → evaluation → talking video with sound.

    python run.py --config=configs/quickstart.py                       # the built-in subject
    python run.py --config=configs/quickstart.py --config.video=V.mp4 --config.audio=S.wav

writes `dataset/ head/ torso/ talking.mp4 summary.json` into the workdir (`runs/quickstart` by default). A finished step
is skipped when the command is run again. Variant `smoke`: a 2 s clip of 96x96 pixels, in seconds.
"""

from adnerf_jax.configuration.quickstart import get_config

__all__ = ["get_config"]
