"""The whole way in one command: dataset → head → torso → evaluation → talking video with sound."""

import functools
import hashlib
import pathlib
import resource
import shutil
import sys
import time
from collections.abc import Callable
from typing import Any

import numpy as np
from ml_collections import ConfigDict

from adnerf_jax.common.errors import UserError
from adnerf_jax.common.files import read_json, write_json
from adnerf_jax.common.own_folders import check_no_links
from adnerf_jax.common.progress import duration, say

_SUMMARY = "summary.json"
_TALKING = "talking.mp4"
_STAGES = ("head", "torso")


def quickstart(config: ConfigDict, workdir: pathlib.Path) -> dict[str, Any]:
    """Runs every step that is not finished yet; writes `dataset/ head/ torso/ talking.mp4 summary.json`.

    Args:
      config: the quickstart's configuration.
      workdir: folder of all outputs.

    Returns:
      what `summary.json` holds.

    Raises:
      UserError: bad input, named in one line.
    """
    from adnerf_jax.configuration.checks import check_settings

    video, audio = check_inputs(config)
    head, torso = prepared_stages(config, workdir)
    for stage in (head, torso):
        check_settings(stage)
    summary = Summary(workdir, fingerprint(config, video, audio))
    subject = workdir / "subject"
    if video is None:
        summary.step("subject", lambda: _make_subject(subject, config.subject), subject)
        video, audio = subject / "subject.mp4", audio or subject / "driving.wav"
    dataset = workdir / "dataset"
    summary.step("dataset", lambda: _prepare(video, dataset, config), dataset)
    for name, stage in (("head", head), ("torso", torso)):
        summary.step(name, functools.partial(_train, stage, workdir / name), workdir / name)
    quick = ConfigDict(torso.to_dict())
    quick.eval.update(lpips="", faces=False)  # nothing to fetch; --mode=eval measures the rest
    evaluation = workdir / "torso" / "eval"
    summary.step("evaluation", lambda: summary.record_settings(_evaluate(quick, workdir / "torso")), evaluation)
    render = ConfigDict(torso.to_dict())
    render.render.update(
        audio=str(audio or video), out=str(workdir / _TALKING), start=config.start, duration=config.duration
    )
    summary.step("talking video", lambda: _synthesize(render, workdir / "torso"), workdir / _TALKING)
    return summary.finish([f"dataset/, head/, torso/ in {workdir}", str(workdir / _TALKING), str(workdir / _SUMMARY)])


def builtin_dataset(out: pathlib.Path, smoke: bool) -> pathlib.Path:
    """The dataset of the built-in subject, made on first use.

    Args:
      out: its folder; the subject's video is written beside it.
      smoke: makes the small one.

    Returns:
      `out`.
    """
    from adnerf_jax.configuration.quickstart import get_config

    config = get_config("smoke" if smoke else None)
    subject = out.with_name("subject")
    _make_subject(subject, config.subject)
    _prepare(subject / "subject.mp4", out, config)
    return out


def check_inputs(config: ConfigDict) -> tuple[pathlib.Path | None, pathlib.Path | None]:
    """The given video and sound; both are opened, so that a wrong path fails before an hour of work, not after."""
    from adnerf_jax.configuration.checks import check_values
    from adnerf_jax.inference.speech_input import check_span, count_frames
    from adnerf_jax.media.audio import has_sound
    from adnerf_jax.media.video import probe

    check_values(config)
    check_span(config.start, config.duration)
    video, audio = (pathlib.Path(path) if path else None for path in (config.video, config.audio))
    if video is not None:
        probe(video)
    if audio is not None and not has_sound(audio):
        raise UserError(f"{audio} has no sound track: give a sound file, or a video with sound")
    if audio is not None:
        count_frames(audio, config.start, config.duration)
    return video, audio


def fingerprint(config: ConfigDict, video: pathlib.Path | None, audio: pathlib.Path | None) -> dict[str, str]:
    """What each step depends on beside the steps before it."""
    video_id = "built-in" if video is None else _identity(video)
    audio_id = "built-in" if audio is None else _identity(audio)
    return {
        "subject": config.subject.to_json(),
        "dataset": f"{video_id} {config.speech} {config.parsing} {config.subject.to_json() if video is None else ''}",
        "head": config.head.to_json(),
        "torso": config.torso.to_json(),
        "evaluation": "",
        "talking video": f"{audio_id} {config.start} {config.duration}",
    }


def prepared_stages(config: ConfigDict, workdir: pathlib.Path) -> tuple[ConfigDict, ConfigDict]:
    """The stages' configurations with the quickstart's folders filled in."""
    head, torso = ConfigDict(config.head.to_dict()), ConfigDict(config.torso.to_dict())
    if config.video is None:
        head.train.steps = head.optim.decay_steps = min(head.train.steps, config.subject.head_steps)
    head.data = torso.data = str(workdir / "dataset")
    torso.head_checkpoint = str(workdir / "head")
    torso.model.head = head.model.head
    return head, torso


class Summary:
    """`summary.json`: which steps are done, what they took, and what came out.

    Args:
      workdir: the quickstart's folder.
      inputs: from `fingerprint`; a step whose inputs changed is done again, and so are those after it.
    """

    def __init__(self, workdir: pathlib.Path, inputs: dict[str, str]):
        self._path = workdir / _SUMMARY
        self._inputs = inputs
        old = read_json(self._path, "summary") if self._path.exists() else {}
        self._old = {step["name"]: step for step in old.get("steps", [])}
        self._chain = ""
        self._steps: list[dict[str, Any]] = []
        self._settings = old.get("settings", {})

    def step(self, name: str, run: Callable[[], object], output: pathlib.Path) -> None:
        """Runs a step unless the workdir has its output, made from the same inputs."""
        self._chain = hashlib.sha256(f"{self._chain}{name}{self._inputs[name]}".encode()).hexdigest()[:16]
        old = self._old.get(name)
        if old and old.get("inputs") == self._chain and output.exists():
            say(f"[{name}] done before ({duration(old['seconds'])})")
            self._steps.append(old)
            return
        say(f"[{name}]")
        if old and old.get("inputs") != self._chain and name in _STAGES:
            # Its inputs have changed, so its training cannot be resumed.
            from adnerf_jax.training.workdir_lock import alone_in

            check_no_links(output)
            with alone_in(output):
                shutil.rmtree(output, ignore_errors=True)
        start = time.monotonic()
        run()
        # ru_maxrss counts KiB, on macOS bytes.
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (2**20 if sys.platform == "darwin" else 2**10)
        seconds = round(time.monotonic() - start, 1)
        self._steps.append({"name": name, "seconds": seconds, "peak_mib": round(peak), "inputs": self._chain})
        self._write([])

    def record_settings(self, metrics: dict[str, Any]) -> None:
        """Takes over the evaluation's numbers."""
        self._settings = metrics["settings"]

    def finish(self, files: list[str]) -> dict[str, Any]:
        """Writes and prints the whole."""
        result = self._write(files)
        say("")
        for step in self._steps:
            say(f"{step['name']:>14}  {duration(step['seconds']):>12}  {step['peak_mib']:>6} MiB")
        say(f"{'total':>14}  {duration(float(np.sum([s['seconds'] for s in self._steps]))):>12}")
        for name, values in self._settings.items():
            say(f"{name:>14}  " + "  ".join(f"{key} {value:.4g}" for key, value in values.items()))
        for file in files:
            say(f"wrote {file}")
        return result

    def _write(self, files: list[str]) -> dict[str, Any]:
        result = {"steps": self._steps, "settings": self._settings, "files": files}
        write_json(self._path, result)
        return result


def _identity(path: pathlib.Path) -> str:
    status = path.stat()
    return f"{path.absolute()} {status.st_size} {status.st_mtime_ns}"


def _make_subject(out: pathlib.Path, subject: ConfigDict) -> None:
    from adnerf_jax.preprocessing.synthetic_subject.film import make_subject

    make_subject(out, size=subject.size, seconds=subject.seconds, driving_seconds=subject.driving_seconds)


def _prepare(video: pathlib.Path, out: pathlib.Path, config: ConfigDict) -> None:
    from adnerf_jax.preprocessing.pipeline import prepare

    prepare(video, out, speech=config.speech, parsing=config.parsing)


def _train(config: ConfigDict, workdir: pathlib.Path) -> None:
    from adnerf_jax.training.train import train

    train(config, workdir)


def _evaluate(config: ConfigDict, workdir: pathlib.Path) -> dict[str, Any]:
    from adnerf_jax.evaluation.evaluate import evaluate

    return evaluate(config, workdir)


def _synthesize(config: ConfigDict, workdir: pathlib.Path) -> None:
    from adnerf_jax.inference.synthesize import synthesize

    synthesize(config, workdir)
