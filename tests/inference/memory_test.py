"""Memory of long renders and streams: it does not grow with their length."""

import gc
import os
import tracemalloc

import jax
import numpy as np
import pytest
import tiny

from adnerf_jax.common.timing import SAMPLE_RATE
from adnerf_jax.inference import output
from adnerf_jax.inference.avatar import Avatar
from adnerf_jax.inference.trained_stage import TrainedStage
from adnerf_jax.media.audio import write_wav
from adnerf_jax.rendering.renderer import Layers

pytestmark = pytest.mark.usefixtures("quick_compilation")

FRAMES, SETTLED = 300, 100  # the first ones compile, and fill caches and queues
# A kept frame of 32x32 would add 3 kB a frame, its sound or its speech window 2.5 and 5 kB.
LEAST_LEAK = 1000 * (FRAMES - SETTLED)


class Watch:
    """Bytes that Python and numpy hold, and arrays that JAX holds, after some frames."""

    def __init__(self):
        self.frames, self.held = 0, []

    def __enter__(self):
        tracemalloc.start()
        return self

    def __exit__(self, *_):
        tracemalloc.stop()

    def __call__(self) -> None:
        """Counts a frame."""
        self.frames += 1
        if self.frames in (SETTLED, FRAMES - 1):
            gc.collect()
            self.held.append((tracemalloc.get_traced_memory()[0], len(jax.live_arrays())))

    def check(self) -> None:
        """Fails where the second measurement is larger than the first by what something kept a frame would need."""
        (before, arrays), (after, arrays_after) = self.held
        assert self.frames == FRAMES
        assert after - before < LEAST_LEAK
        assert abs(arrays_after - arrays) < 20


@pytest.fixture
def avatar(trained, monkeypatch) -> Avatar:
    """A person whose pictures are drawn at once: their network keeps nothing, and would take most of the time."""
    shape = tiny.SIZE, tiny.SIZE
    picture = Layers(*(np.full((*shape, *channels), 0.25, np.float32) for channels in ((3,), (), (), (3,), ())))
    monkeypatch.setattr(TrainedStage, "layers", lambda self, transform, conditions: picture)
    return Avatar.load(trained.torso)


def noise(samples: int) -> np.ndarray:
    return 0.1 * np.random.default_rng(0).normal(size=samples).astype(np.float32)


def test_a_stream_holds_no_more_after_300_frames_than_after_100(avatar):
    heard = []

    def microphone():
        for k in range(FRAMES):
            heard.append(k)
            yield noise(640)

    with Watch() as watch:
        for i, _ in enumerate(avatar.stream(microphone())):
            watch()
            # No more is heard ahead than the look-ahead needs.
            assert len(heard) <= i + 1 + avatar.look_ahead * 25 + 1
    watch.check()


@pytest.mark.parametrize("pose", ["mirror", "random"])
def test_a_render_holds_no_more_after_300_frames_than_after_100(avatar, tmp_path, monkeypatch, pose):
    write_wav(tmp_path / "speech.wav", noise(FRAMES * 640), SAMPLE_RATE)
    write = output.VideoWriter.write
    with Watch() as watch:
        monkeypatch.setattr(output.VideoWriter, "write", lambda self, frame: (watch(), write(self, frame))[1])
        avatar.write(tmp_path / "long.mp4", tmp_path / "speech.wav", pose=pose)
    watch.check()
    assert os.path.getsize(tmp_path / "long.mp4") > 0
