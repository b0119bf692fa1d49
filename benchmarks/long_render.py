"""Rendering of long speech: time and memory of a live stream, or of a render that is killed twice and resumed.

    python -m benchmarks.long_render --workdir W/torso --minutes 60 --size 64 --live
    python -m benchmarks.long_render --workdir W/torso --minutes 10 --size 128 --out long.mp4

prints milliseconds a frame and the process's anonymous memory for each tenth of the speech; memory must stay constant.
With `--live`, it then prints the parts of the latency from sound to image. With `--out`, `--mode=render` is killed when
half of the frames are rendered, started again, killed while it encodes the video, and started once more; then the kept
frames are compared with those of an uninterrupted render, and the ends of image and sound are printed. The speech is
noise of varying loudness. It takes as long as rendering the frames: 25 a second of speech.
"""

import argparse
import dataclasses
import os
import pathlib
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator

import av
import numpy as np

from adnerf_jax import Avatar
from adnerf_jax.common.errors import UserError
from adnerf_jax.common.progress import Stopwatch
from adnerf_jax.common.timing import FEATURE_RATE, FPS, FRAMES_AFTER, SAMPLE_RATE, WINDOW
from adnerf_jax.inference.shards import frame_path
from adnerf_jax.media.audio import write_wav
from adnerf_jax.media.encoder_settings import LIVE_MP4
from adnerf_jax.media.image import read_image
from adnerf_jax.media.video import VideoWriter
from adnerf_jax.speech import features as speech
from benchmarks.machine import REFERENCE_GFLOPS, anonymous_mib, matrix_rate

_INTERVAL = 0.1  # seconds between two polls of a process
_COMPARED = 10  # every tenth frame is compared


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.long_render", description=__doc__.splitlines()[0])
    parser.add_argument("--workdir", required=True, type=pathlib.Path, help="folder of a trained torso")
    parser.add_argument("--minutes", type=float, default=60.0)
    parser.add_argument("--size", help="image size; default: that of the training")
    how = parser.add_mutually_exclusive_group(required=True)
    how.add_argument("--live", action="store_true", help="stream live and keep nothing")
    how.add_argument("--out", type=pathlib.Path, help="write a video")
    arguments = parser.parse_args()
    frames = round(arguments.minutes * 60 * FPS)
    if arguments.live:
        live(arguments.workdir, frames, arguments.size)
    else:
        killed(arguments.workdir, frames, arguments.size, arguments.out)
    rate = matrix_rate()
    print(f"{rate:.0f} GFLOP/s; scaled to {REFERENCE_GFLOPS:g}: times {rate / REFERENCE_GFLOPS:.2f}")


def babble(frames: int) -> Iterator[np.ndarray]:
    """Noise of varying loudness in chunks of one frame, float32 [640] at 16 kHz."""
    rng = np.random.default_rng(0)
    for i in range(frames):
        loudness = 0.05 * (1.0 + np.sin(0.9 * i)) * (i % 60 < 45)
        yield (loudness * rng.standard_normal(speech.SAMPLES_PER_FRAME)).astype(np.float32)


def live(workdir: pathlib.Path, frames: int, size: str | None) -> None:
    """Streams into a discarded mp4 and prints the tables."""
    avatar = Avatar.load(workdir)
    stream = avatar.stream(babble(frames), keep_sound=True, size=size)
    listening = Stopwatch()
    spoken = stream.speech
    stream.speech = dataclasses.replace(spoken, windows=lambda: listening.over(spoken.windows()))
    seconds = []  # times of speech features, rendering and encoding
    print("| minutes | speech features, ms a frame | rendering | encoding | anonymous MiB |\n|---|---|---|---|---|")
    with (
        open(os.devnull, "wb") as sink,
        VideoWriter(sink, stream.width, stream.height, FPS, sound=spoken.sound) as writer,
    ):
        for _ in range(10):
            tenth = []
            for _ in range(frames // 10):
                start = time.monotonic()
                frame = next(stream)
                made = time.monotonic()
                writer.write(frame)
                features, listening.seconds = listening.seconds, 0.0
                tenth.append((features, made - start - features, time.monotonic() - made))
            seconds.append(np.array(tenth))
            speech_ms, picture_ms, encoding_ms = 1000 * seconds[-1].mean(0)
            minutes = writer.frames / FPS / 60
            print(
                f"| {minutes:.1f} | {speech_ms:.2f} | {picture_ms:.2f} | {encoding_ms:.2f} | {anonymous_mib():.0f} |",
                flush=True,
            )
    steady = np.concatenate(seconds[1:])  # the first tenth compiles
    worst, mean = 1000 * np.percentile(steady, 99.9, axis=0), 1000 * steady.mean(0)
    encoder = speech.get_encoder(avatar.stage.person.speech)
    print("\n| latency from sound to image | ms |\n|---|---|")
    for what, value in (
        ("look-ahead of the audio attention", 1000 * FRAMES_AFTER / FPS),
        ("second half of a speech window", 1000 * (WINDOW // 2 - 1) / FEATURE_RATE),
        ("filling a chunk of speech features, at most", 1000 * speech.CHUNK / FEATURE_RATE),
        ("look-ahead of the speech encoder", 1000 * encoder.right_seconds),
        ("sum: `look_ahead`", 1000 * avatar.look_ahead),
    ):
        print(f"| {what} | {value:.0f} |")
    print(f"| features of a chunk: slowest of 1,000 frames | {worst[0]:.0f} |")
    print(f"| rendering: mean (slowest of 1,000) | {mean[1]:.1f} ({worst[1]:.0f}) |")
    print(f"| encoding: mean (slowest of 1,000) | {mean[2]:.1f} ({worst[2]:.0f}) |")
    print(f"| filling a fragment of the mp4, at most | {1000 * int(LIVE_MP4.options['g']) / FPS:.0f} |")


def killed(workdir: pathlib.Path, frames: int, size: str | None, out: pathlib.Path) -> None:
    """Renders a file with two kills and prints the outcome.

    Raises:
      UserError: a run ended before it could be killed, or failed.
    """
    look = {} if size is None else {"size": size}
    sound, folder = out.with_suffix(".wav"), out.with_name(out.name + ".frames")
    out.parent.mkdir(parents=True, exist_ok=True)
    out.unlink(missing_ok=True)
    shutil.rmtree(folder, ignore_errors=True)
    write_wav(sound, np.concatenate(list(babble(frames))), SAMPLE_RATE)
    settings = {"audio": sound, "out": out, **look}
    command = [sys.executable, "run.py", "--mode=render", "--config=configs/torso.py", f"--workdir={workdir}"]
    command += [f"--config.render.{name}={value}" for name, value in settings.items()]
    print("| minutes | ms a frame | anonymous MiB |\n|---|---|---|")
    for stop in (frames // 2, frames):
        process = subprocess.Popen(command, stderr=subprocess.DEVNULL)
        try:
            watch(process, folder, frames, stop)
            if process.poll() is not None:
                raise UserError(f"{' '.join(command)} ended with {process.returncode} before it could be killed")
        finally:
            process.kill()
            process.wait()
        print(f"killed with {count(folder)} of {frames} frames kept", flush=True)
    rendering = Avatar.load(workdir).render(sound, **look)
    selected = rendering.selected(lambda i: i % _COMPARED == 0)
    differ = [not np.array_equal(frame, read_image(frame_path(folder, i))) for i, frame in selected]
    print(f"{len(differ)} of the kept frames compared with those of a run without a kill: {sum(differ)} differ")
    subprocess.run(command, stderr=subprocess.DEVNULL, check=True)
    with av.open(str(out)) as container:
        video, audio = container.streams.video[0], container.streams.audio[0]
        ends = [float(((s.start_time or 0) + s.duration) * s.time_base) for s in (video, audio)]
        shown = video.frames
    print(f"{out}: {shown} frames; the images end at {ends[0]:.3f} s, the sound at {ends[1]:.3f} s")


def watch(process: subprocess.Popen, folder: pathlib.Path, frames: int, stop: int) -> None:
    """Waits until `stop` frames are kept or the process ends; prints a line for each tenth of all frames."""
    kept = printed = count(folder)
    tenth, since = max(frames // 10, 1), time.monotonic()
    while process.poll() is None and kept < stop:
        time.sleep(_INTERVAL)
        kept = count(folder)
        if kept // tenth > printed // tenth:
            now = time.monotonic()
            each = 1000 * (now - since) / (kept - printed)
            print(f"| {kept / FPS / 60:.1f} | {each:.1f} | {anonymous_mib(process.pid):.0f} |", flush=True)
            printed, since = kept, now


def count(folder: pathlib.Path) -> int:
    """Number of the kept frames in a folder."""
    try:
        with os.scandir(folder) as entries:
            return sum(entry.name[0].isdigit() for entry in entries)
    except FileNotFoundError:
        return 0


if __name__ == "__main__":
    main()
