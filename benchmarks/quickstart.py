"""Duration, memory and quality of the quickstart in one table.

    python -m benchmarks.quickstart                                    # the built-in subject
    python -m benchmarks.quickstart --smoke
    python -m benchmarks.quickstart --video V.mp4 --audio S.wav --duration 8

runs and measures the whole quickstart. Seconds are given as measured and scaled to a machine with 110
GFLOP/s in float32 matrix products. For the built-in subject, the mouth opening measured in the talking video is
compared with the true opening of the driving speech.
"""

import argparse
import json
import pathlib
import shutil

import numpy as np

import run
from adnerf_jax.media.audio import read_audio
from adnerf_jax.media.video import read_frames
from adnerf_jax.speech.features import SAMPLES_PER_FRAME
from benchmarks.machine import REFERENCE_GFLOPS, matrix_rate


def lip_report(video: pathlib.Path, driving: pathlib.Path, truth: pathlib.Path) -> dict[str, float]:
    """Correlation and lag of the rendered and the true mouth opening, and the correlation of the loudness alone.

    Args:
      video: the talking video.
      driving: the speech of the video.
      truth: `driving_mouth.npy` of the built-in subject.

    Returns:
      `correlation` at lag 0, `best_lag` in frames (positive: the image is late), `loudness`: the best correlation of
      the sound's loudness over lags of ±2 frames.
    """
    from adnerf_jax.face.landmarks import detect_video, mouth_openness

    found = detect_video(read_frames(video))
    opening = mouth_openness(found.points)
    true = np.load(truth, allow_pickle=False)
    frames = min(len(true), len(opening))
    opening, true = opening[:frames], true[:frames]
    lags = range(-5, 6)
    by_lag = [correlation_at(opening, true, lag) for lag in lags]
    samples = read_audio(driving)
    loudness = np.array([np.sqrt(np.mean(np.square(_around(samples, i)))) for i in range(frames)])
    loud = max(correlation_at(x, true, lag) for x in (loudness, np.log(loudness + 1e-4)) for lag in range(-2, 3))
    return {
        "faces_found": float(found.valid[:frames].mean()),
        "correlation": correlation_at(opening, true, 0),
        "best_lag": float(lags[int(np.argmax(by_lag))]),
        "loudness": loud,
    }


def correlation_at(late: np.ndarray, true: np.ndarray, lag: int) -> float:
    """Pearson correlation of late[i + lag] with true[i]."""
    n = len(true)
    a, b = late[max(lag, 0) : n + min(lag, 0)], true[max(-lag, 0) : n - max(lag, 0)]
    return float(np.corrcoef(a, b)[0, 1])


def _around(samples: np.ndarray, frame: int) -> np.ndarray:
    """The 40 ms of 16 kHz sound around the time of a frame at 25 fps."""
    middle, half = SAMPLES_PER_FRAME * frame, SAMPLES_PER_FRAME // 2
    return samples[max(middle - half, 0) : middle + half]


def main() -> None:
    """Runs the quickstart from scratch and prints its table."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.quickstart", description=__doc__.splitlines()[0])
    parser.add_argument("--smoke", action="store_true", help="the small size of the built-in subject")
    parser.add_argument("--video", help="portrait video; default: the built-in subject")
    parser.add_argument("--audio", help="driving speech; default: the built-in speech")
    parser.add_argument("--duration", type=float, help="seconds of the driving speech")
    parser.add_argument("--workdir", default="runs/benchmark", type=pathlib.Path)
    args = parser.parse_args()

    rate = matrix_rate()
    if args.workdir.exists() and not (args.workdir / "summary.json").exists():
        raise SystemExit(f"{args.workdir} exists and is not the folder of a quickstart: give another --workdir")
    shutil.rmtree(args.workdir, ignore_errors=True)
    command = ["run.py", f"--config=configs/quickstart.py{':smoke' if args.smoke else ''}", f"--workdir={args.workdir}"]
    command += [f"--config.{k}={v}" for k in ("video", "audio", "duration") if (v := getattr(args, k)) is not None]
    if run.main(command):
        raise SystemExit("the quickstart failed")

    summary = json.loads((args.workdir / "summary.json").read_text())
    scale = rate / REFERENCE_GFLOPS
    print(f"\n{rate:.0f} GFLOP/s; scaled to {REFERENCE_GFLOPS:.0f}: times {scale:.2f}")
    print(f"{'step':>14} {'seconds':>9} {'scaled':>9} {'peak MiB':>9}")
    for step in summary["steps"]:
        print(f"{step['name']:>14} {step['seconds']:9.1f} {step['seconds'] * scale:9.1f} {step['peak_mib']:9d}")
    total = sum(step["seconds"] for step in summary["steps"])
    print(f"{'total':>14} {total:9.1f} {total * scale:9.1f}")
    for name, values in summary["settings"].items():
        print(f"{name:>14}  " + "  ".join(f"{key} {value:.4g}" for key, value in values.items()))
    subject = args.workdir / "subject"
    if subject.exists():
        report = lip_report(
            args.workdir / "talking.mp4", subject / "driving.wav", subject / "truth" / "driving_mouth.npy"
        )
        print(f"{'lips':>14}  " + "  ".join(f"{key} {value:.3f}" for key, value in report.items()))


if __name__ == "__main__":
    main()
