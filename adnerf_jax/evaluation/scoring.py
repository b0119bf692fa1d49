"""Metrics of a stream of frames, separately for each setting: metrics and landmarks are kept, images are not.

This module does not depend on models: the frames may come from any program.
"""

import dataclasses
import functools
import pathlib
from collections.abc import Callable, Mapping
from typing import TypeAlias, TypeVar

import jax
import numpy as np

from adnerf_jax.common.errors import UserError
from adnerf_jax.common.pixels import to_uint8
from adnerf_jax.common.progress import say
from adnerf_jax.evaluation.face_metrics import LEAST_PAIRS, ExpectedLips, face_scores
from adnerf_jax.evaluation.metrics import MS_SSIM_SMALLEST, crop, ms_ssim, psnr, seam_band, seam_error, ssim
from adnerf_jax.evaluation.sync_confidence import LEAST, MOST_LAG, LipClips, speech_embeddings, sync_scores
from adnerf_jax.face.landmarks import FaceTracker, Landmarks
from adnerf_jax.pretrained import lpips, weights
from adnerf_jax.pretrained.face_landmarker import FaceLandmarker
from adnerf_jax.pretrained.lpips import Lpips
from adnerf_jax.pretrained.syncnet import SyncNet
from adnerf_jax.speech.sync import MIN_FRAMES, MIN_FRAMES_WITH_MODEL

Row: TypeAlias = dict[str, float | int | str]  # a row of `frames.csv`: frame, time, setting and metrics
T = TypeVar("T")

_NOT_REQUESTED = "not requested"
PROTOCOL = 1  # raised by every change after which metrics are not comparable with earlier ones
_LIPS = "opening of the inner lips relative to the size of the face, from landmarks"
_OFFSET = "a regression from speech to lips, fitted on the training frames' ground truth"
# The definition of each metric, in the order in which they are written. A name that ends in _truth is the same metric
# of the ground truth.
MEASURES = {
    "psnr": "dB, whole frame, values in [0, 1], capped at 100, mean over frames",
    "psnr_face": "the same inside the face rectangle",
    "ssim": "Gaussian window 11, sigma 1.5, population covariance, RGB, mean over frames",
    "ms_ssim": "SSIM over five scales (Wang et al. 2003), RGB, mean over frames",
    "lpips_alex": "LPIPS 0.1, AlexNet, whole frame at its own size, mean over frames",
    "lpips_vgg": "LPIPS 0.1, VGG16, whole frame at its own size, mean over frames",
    "seam_error": "mean absolute difference in grey levels (0 to 255) in the band where the ground truth's head meets "
    "neck or torso, 3 % of the face rectangle's height to each side",
    "faces_found": "share of the rendered frames in which the landmark network finds a face; face metrics are computed "
    "over the frames in which render and ground truth both have one",
    "lmd_px": "landmark distance: 20 mouth landmarks (MediaPipe's nearest to iBUG 49 to 68), each set centred, mean "
    "distance in px",
    "lmd_percent": "the same in per cent of the distance between the outer eye corners in the ground truth",
    "lip_correlation": f"Pearson correlation of render and ground truth: {_LIPS}",
    "lip_lag_frames": "lag of the highest correlation, at most 10 frames and a third of the clip; positive where the "
    "render is late",
    "lip_correlation_at_lag": "the correlation at that lag",
    "lip_amplitude": "standard deviation of the opening divided by the ground truth's; ideally 1",
    "av_offset_s": f"seconds by which the sound is late against the lips, by {_OFFSET}",
    "av_fit": "squared correlation of the lips with those predicted from the speech, at that offset",
    "av_margin": "by how much it exceeds the squared correlation at every lag more than 4 frames away",
    "sync_confidence": "SyncNet's confidence, with weights given by the user: median minus minimum of the mean "
    "distances at 31 lags; faces are cropped by MediaPipe's landmarks",
    "sync_distance": "SyncNet's smallest mean distance over the lags",
    "sync_offset_s": "the lag of that distance in seconds, positive where the sound is late",
    "au_error": "mean absolute difference of the lower face's action units (OpenFace's intensities, 0 to 5: AU10, 12, "
    "14, 15, 17, 20, 23, 25, 26) over frames and units",
    "au_error_summed": "sum over these units of the mean squared difference",
    "blendshape_error": "substitute for the action unit error: mean absolute difference of MediaPipe's 27 blendshapes "
    "of jaw and mouth (0 to 1); not comparable with OpenFace's",
    "jitter_px": "RMS second difference over time of the 42 landmarks that expressions do not move, px",
    "jitter_deg": "the same of the rotation that best aligns them, degrees",
}
_IN_BOTH = "it needs a frame in which render and ground truth have a face"
# Why a face metric can be missing although faces were measured.
NEEDS = {
    "lmd_px": _IN_BOTH,
    "lmd_percent": _IN_BOTH,
    "lip_correlation": f"it needs {LEAST_PAIRS} frames in which render and ground truth have a face",
    "lip_lag_frames": f"it needs {LEAST_PAIRS} consecutive frames, lips that move, and a maximum of the correlation",
    "lip_amplitude": f"{_IN_BOTH}, and lips that move in the ground truth",
    "av_offset_s": f"it needs sound, the dataset's landmarks, {MIN_FRAMES} training frames and "
    f"{MIN_FRAMES_WITH_MODEL} scored frames",
    "sync_confidence": f"it needs sound and {LEAST} clips of five consecutive frames",
    "blendshape_error": _IN_BOTH,
    "jitter_px": "it needs a face in three consecutive frames",
    "jitter_deg": "it needs a face in three consecutive frames",
}
_IMAGE_METRICS = ("psnr", "psnr_face", "ssim", "ms_ssim", "lpips_alex", "lpips_vgg", "seam_error")


class _Face:
    """The face in a stream of frames: its landmarks, and SyncNet's embeddings of its lips."""

    def __init__(self, landmarker: FaceLandmarker, syncnet: SyncNet | None):
        self.tracker = FaceTracker(landmarker)
        self.lips = None if syncnet is None else LipClips(syncnet)

    def add(self, time: int, image: np.ndarray) -> None:
        rgb = to_uint8(image)
        self.tracker.add(rgb)
        if self.lips is not None:
            self.lips.add(time, rgb, self.tracker.latest)


@dataclasses.dataclass
class _Setting:
    """The rows of a setting, and the faces of its renders and of their ground truth."""

    rows: list[Row] = dataclasses.field(default_factory=list)
    times: list[int] = dataclasses.field(default_factory=list)
    render: _Face | None = None
    truth: _Face | None = None


class Scorer:
    """Computes the metrics of frames; each setting's frames must come in order of time, settings may alternate.

    Args:
      networks: LPIPS by the name of its network.
      landmarker: finds faces; None leaves the face metrics out.
      syncnet: scores lips against sound; None leaves that out.
    """

    def __init__(
        self, networks: Mapping[str, Lpips], landmarker: FaceLandmarker | None, syncnet: SyncNet | None = None
    ):
        self._networks, self._landmarker, self._syncnet = networks, landmarker, syncnet
        self._settings: dict[str, _Setting] = {}
        self._rows: list[Row] = []
        self._truth: np.ndarray | None = None
        self._true_features: dict[str, list[jax.Array]] = {}

    def add(
        self,
        setting: str,
        frame: int,
        time: int,
        image: np.ndarray,
        truth: np.ndarray,
        face_rect: np.ndarray,
        parts: np.ndarray | None = None,
    ) -> None:
        """Scores a frame against its ground truth.

        Args:
          setting: the setting that the frame belongs to.
          frame: its number in the clip, for the table.
          time: its index in time at 25 fps, which is its row in the speech windows.
          image, truth: float [H, W, 3] in [0, 1]; the image is first rounded to 8 bits, as in a file.
          face_rect: x, y, width, height.
          parts: uint8 [H, W], `face.parsing` part map of the ground truth, for the seam error; None leaves it out.
        """
        image = quantise(image)
        row: Row = {"frame": frame, "time": time, "setting": setting}
        row |= image_metrics(image, truth, face_rect)
        if truth is not self._truth:
            self._truth = truth
            self._true_features = {name: network.features(truth) for name, network in self._networks.items()}
        for name, network in self._networks.items():
            row[f"lpips_{name}"] = network.distance(network.features(image), self._true_features[name])
        if parts is not None:
            row["seam_error"] = seam_error(image, truth, seam_band(parts, face_rect))
        self._add(setting, row, time, image, truth)

    def add_without_truth(self, setting: str, frame: int, time: int, image: np.ndarray) -> None:
        """Scores a frame that has no ground truth; arguments as in `add`."""
        self._add(setting, {"frame": frame, "time": time, "setting": setting}, time, quantise(image), None)

    def _add(self, name: str, row: Row, time: int, image: np.ndarray, truth: np.ndarray | None) -> None:
        setting = self._settings.setdefault(name, _Setting())
        setting.rows.append(row)
        self._rows.append(row)
        setting.times.append(time)
        if self._landmarker is None:
            return
        setting.render = setting.render or _Face(self._landmarker, self._syncnet)
        setting.render.add(time, image)
        if truth is not None:
            setting.truth = setting.truth or _Face(self._landmarker, self._syncnet)
            setting.truth.add(time, truth)

    def finish(
        self, expected: Mapping[str, ExpectedLips], samples: Mapping[str, np.ndarray]
    ) -> tuple[dict[str, dict[str, float]], list[Row]]:
        """The metrics of each setting, and a row for each frame and setting in the order of `add`.

        Args:
          expected: lip shapes that the speech of a setting's frames predicts, for the settings where that is known.
          samples: the sound itself at 16 kHz, mono, from time 0 on, for SyncNet, by setting.
        """
        settings = {}
        for name, setting in self._settings.items():
            values = _image_means(setting.rows)
            if setting.render is not None:
                values |= _face_values(setting, setting.render, expected.get(name))
                values |= self._sync_scores(setting, samples.get(name))
            settings[name] = _ordered({key: value for key, value in values.items() if np.isfinite(value)})
        return settings, self._rows

    def _sync_scores(self, setting: _Setting, samples: np.ndarray | None) -> dict[str, float]:
        if self._syncnet is None or samples is None:
            return {}
        speech = speech_embeddings(self._syncnet, samples, max(setting.times) + MOST_LAG + 1)
        scores: dict[str, float] = {}
        for suffix, face in (("", setting.render), ("_truth", setting.truth)):
            if face is not None and face.lips is not None:
                lips, times = face.lips.finish()
                found = sync_scores(lips, times, speech)
                scores |= {f"{key}{suffix}": value for key, value in found.items()}
        return scores


def _image_means(rows: list[Row]) -> dict[str, float]:
    """Means of the image metrics over the rows where they are finite; NaN where they are in none."""
    means = {}
    for key in _IMAGE_METRICS:
        values = np.array([row[key] for row in rows if key in row], np.float64)
        finite = values[np.isfinite(values)]
        means[key] = float(finite.mean()) if len(finite) else float("nan")
    return means


def _face_values(setting: _Setting, render: _Face, expected: ExpectedLips | None) -> dict[str, float]:
    """Face metrics of a whole setting; those of single frames are added to its rows."""
    truth: Landmarks | None = None if setting.truth is None else setting.truth.tracker.landmarks()
    whole, per_frame = face_scores(render.tracker.landmarks(), truth, np.array(setting.times), expected)
    for k, row in enumerate(setting.rows):
        row |= {key: float(values[k]) for key, values in per_frame.items()}
    return whole


def quantise(image: np.ndarray) -> np.ndarray:
    """A float image [H, W, 3] rounded to 8 bits, still in [0, 1]."""
    return to_uint8(image).astype(image.dtype) / 255.0


def image_metrics(image: np.ndarray, truth: np.ndarray, face_rect: np.ndarray) -> dict[str, float]:
    """PSNR, PSNR inside the face rectangle, SSIM, and MS-SSIM (NaN for small images) of float [H, W, 3]."""
    return {
        "psnr": psnr(image, truth),
        "psnr_face": psnr(crop(image, face_rect), crop(truth, face_rect)),
        "ssim": ssim(image, truth),
        "ms_ssim": ms_ssim(image, truth),
    }


def make_scorer(networks: str, faces: bool, smallest: int, syncnet: str | None = None) -> tuple[Scorer, dict[str, str]]:
    """A scorer, and the metrics that it leaves out, each with the reason.

    A network whose weights are not available is left out, with a line on the console.

    Args:
      networks: LPIPS networks, separated by commas.
      faces: whether to compute the face metrics.
      smallest: the shorter side of the frames in pixels.
      syncnet: file with SyncNet's weights; None leaves SyncNet out.

    Raises:
      UserError: an unknown network, or weights that are not SyncNet's.
    """
    left_out: dict[str, str] = {}
    if smallest < MS_SSIM_SMALLEST:
        left_out["ms_ssim"] = f"frames below {MS_SSIM_SMALLEST} pixels"
    distances = _lpips_networks(networks, smallest, left_out)
    landmarker = None
    if not faces:
        left_out["faces"] = _NOT_REQUESTED
    else:
        landmarker = _with_weights("face_landmarker", FaceLandmarker, left_out, "faces")
    if not syncnet:
        left_out["sync_confidence"] = "config.eval.syncnet is not given"
    elif landmarker is None:
        left_out["sync_confidence"] = "it needs landmarks"
    return Scorer(distances, landmarker, SyncNet(syncnet) if syncnet and landmarker else None), left_out


def _lpips_networks(networks: str, smallest: int, left_out: dict[str, str]) -> dict[str, Lpips]:
    """The LPIPS networks of a list separated by commas; those that are not used are noted in `left_out`."""
    names = [name for name in networks.replace(" ", "").split(",") if name]
    unknown = [name for name in names if name not in lpips.NETWORKS]
    if unknown:
        raise UserError(f"config.eval.lpips names {', '.join(unknown)}; there are: {', '.join(lpips.NETWORKS)}")
    found = {}
    for name in lpips.NETWORKS:
        key = f"lpips_{name}"
        if name not in names:
            left_out[key] = _NOT_REQUESTED
        elif smallest < lpips.MIN_SIDE:
            left_out[key] = f"frames below {lpips.MIN_SIDE} pixels"
        else:
            network = _with_weights(key, functools.partial(Lpips, name), left_out, key)
            if network is not None:
                found[name] = network
    return found


def _with_weights(
    weights_name: str, make: Callable[[pathlib.Path], T], left_out: dict[str, str], metric: str
) -> T | None:
    """A network made from its weights; None, with a line on the console, where they are not available."""
    try:
        path = weights.path(weights_name)
    except UserError as error:
        say(f"evaluation leaves {metric} out: {error}")
        left_out[metric] = "weights not available"
        return None
    return make(path)


def _ordered(values: dict[str, float]) -> dict[str, float]:
    """Metrics rounded to four digits, in the order of `MEASURES`, each followed by the ground truth's."""
    order = list(MEASURES)
    return {
        name: round(values[name], 4)
        for name in sorted(values, key=lambda name: (order.index(name.removesuffix("_truth")), name))
    }
