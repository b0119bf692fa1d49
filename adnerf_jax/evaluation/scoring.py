"""Scores of frames as they come, each setting apart, by one protocol: numbers and landmarks are kept, pictures are not.

It knows nothing of models: frames may come from any program.
"""

import dataclasses
from collections.abc import Mapping

import jax
import numpy as np

from adnerf_jax.common.errors import UserError
from adnerf_jax.common.progress import say
from adnerf_jax.evaluation.face_metrics import LEAST_PAIRS, Sound, face_scores
from adnerf_jax.evaluation.metrics import MS_SSIM_SMALLEST, crop, ms_ssim, psnr, seam_band, seam_error, ssim
from adnerf_jax.evaluation.sync_confidence import LEAST, MOST_LAG, LipClips, speech_embeddings, sync_scores
from adnerf_jax.face.landmarks import FaceFollower
from adnerf_jax.pretrained import lpips, weights
from adnerf_jax.pretrained.face_mesh import FaceLandmarker
from adnerf_jax.pretrained.lpips import Lpips
from adnerf_jax.pretrained.syncnet import SyncNet
from adnerf_jax.speech.sync import SHORTEST, SHORTEST_KNOWN

PROTOCOL = 1  # counts changes that make numbers incomparable
_LIPS = "opening of the inner lips over the size of the face, from landmarks"
_OFFSET = "a regression from speech to lips, fitted on the training frames' truth"
# What each number is, in the order in which they are written. Names that end in _truth: the same of the true frames.
MEASURES = {
    "psnr": "dB, of each frame, whole, values in [0, 1], capped at 100, mean over frames",
    "psnr_face": "the same inside the face rectangle",
    "ssim": "Gaussian window 11, sigma 1.5, population covariance, RGB, mean over frames",
    "ms_ssim": "SSIM's parts over five scales (Wang et al. 2003), RGB, mean over frames",
    "lpips_alex": "LPIPS 0.1, AlexNet, whole frame in its own size, mean over frames",
    "lpips_vgg": "LPIPS 0.1, VGG16, whole frame in its own size, mean over frames",
    "seam_error": "mean absolute difference in grey levels (0 to 255) in the band where the true head meets neck or "
    "torso, within 3 % of the face rectangle's height",
    "faces_found": "share of the rendered frames in which the landmark network finds a face; the measures of faces "
    "take the frames in which render and truth have one",
    "lmd_px": "20 mouth landmarks (MediaPipe's nearest to iBUG 49 to 68), each set centred, mean distance in px",
    "lmd_percent": "the same in percent of the distance of the outer eye corners in the truth",
    "lip_correlation": f"Pearson's, render with truth: {_LIPS}",
    "lip_lag_frames": "at which it is highest, within 10 frames and a third of the clip; positive: the render is late",
    "lip_correlation_at_lag": "at that lag",
    "lip_amplitude": "standard deviation of the opening over the truth's; 1 is right",
    "av_offset_s": f"seconds that the sound is late against the lips, by {_OFFSET}",
    "av_fit": "squared correlation of lips with those expected from the sound, at that offset",
    "av_margin": "by how much it exceeds that of every lag more than 4 frames away",
    "sync_confidence": "SyncNet's, by weights from the user: median less minimum of the mean distances at 31 lags; "
    "faces are cut out by MediaPipe's landmarks",
    "sync_distance": "SyncNet's smallest mean distance",
    "sync_offset_s": "the lag of that, seconds, positive where the sound is late",
    "au_error": "mean absolute difference of the lower face's action units (OpenFace's intensities, 0 to 5: AU10, 12, "
    "14, 15, 17, 20, 23, 25, 26) over frames and units",
    "au_error_summed": "mean squared differences of these units, summed up",
    "blendshape_error": "stand-in for the action unit error: mean absolute difference of MediaPipe's 27 blendshapes of "
    "jaw and mouth (0 to 1); not comparable with OpenFace's",
    "jitter_px": "RMS second difference over time of 42 landmarks that the expression does not move, px",
    "jitter_deg": "the same of the rotation that best explains them, degrees",
}
_IN_BOTH = "it needs a frame in which render and truth have a face"
NEEDS = {  # of faces that are measured: why a number can be missing all the same
    "lmd_px": _IN_BOTH,
    "lmd_percent": _IN_BOTH,
    "lip_correlation": f"it needs {LEAST_PAIRS} frames in which render and truth have a face",
    "lip_lag_frames": f"it needs {LEAST_PAIRS} frames in a row, lips that move, and a lag better than those around it",
    "lip_amplitude": f"{_IN_BOTH}, and lips that move in the truth",
    "av_offset_s": f"it needs the dataset's landmarks, {SHORTEST} training frames, {SHORTEST_KNOWN} judged ones, sound",
    "sync_confidence": f"it needs sound and {LEAST} times five frames in a row",
    "blendshape_error": _IN_BOTH,
    "jitter_px": "it needs a face in three frames in a row",
    "jitter_deg": "it needs a face in three frames in a row",
}
_OF_PICTURES = ("psnr", "psnr_face", "ssim", "ms_ssim", "lpips_alex", "lpips_vgg", "seam_error")


class _Face:
    """The face of frames as they come: its landmarks, and for SyncNet its lips."""

    def __init__(self, landmarker: FaceLandmarker, syncnet: SyncNet | None):
        self.follower = FaceFollower(landmarker)
        self.lips = None if syncnet is None else LipClips(syncnet)

    def add(self, time: int, image: np.ndarray) -> None:
        rgb = np.round(image * 255.0).astype(np.uint8)
        self.follower.add(rgb)
        if self.lips is not None:
            self.lips.add(time, rgb, self.follower.latest)


@dataclasses.dataclass
class _Setting:
    rows: list[dict[str, float]] = dataclasses.field(default_factory=list)
    times: list[int] = dataclasses.field(default_factory=list)
    rendered: _Face | None = None
    true: _Face | None = None


class Scorer:
    """Takes frames in order of time, setting by setting in any order.

    Args:
      networks: LPIPS by the name of its network.
      landmarker: finds faces; None leaves their measures out.
      syncnet: scores lips against sound; None leaves that out.
    """

    def __init__(
        self, networks: Mapping[str, Lpips], landmarker: FaceLandmarker | None, syncnet: SyncNet | None = None
    ):
        self._networks, self._landmarker, self._syncnet = networks, landmarker, syncnet
        self._settings: dict[str, _Setting] = {}
        self._rows: list[dict[str, float]] = []
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
        """A frame and its truth.

        Args:
          setting: which one the frame belongs to.
          frame: its number in the clip, for the table.
          time: its place in time at 25 fps, which is the row of the speech windows.
          image, truth: float [H, W, 3] in [0, 1]; the image is rounded to 8 bits first, as a written picture is.
          face_rect: x, y, width, height.
          parts: uint8 [H, W], `face.parsing` parts of the truth, for the neck's seam; None leaves it out.
        """
        image = as_written(image)
        row = {"frame": frame, "time": time, "setting": setting} | measure(image, truth, face_rect)
        if truth is not self._truth:
            self._truth = truth
            self._true_features = {name: network.features(truth) for name, network in self._networks.items()}
        for name, network in self._networks.items():
            row[f"lpips_{name}"] = network.distance(network.features(image), self._true_features[name])
        if parts is not None:
            row["seam_error"] = seam_error(image, truth, seam_band(parts, face_rect))
        self._add(setting, row, time, image, truth)

    def add_alone(self, setting: str, frame: int, time: int, image: np.ndarray) -> None:
        """A frame without a truth (`add`)."""
        self._add(setting, {"frame": frame, "time": time, "setting": setting}, time, as_written(image), None)

    def _add(self, name: str, row: dict[str, float], time: int, image: np.ndarray, truth: np.ndarray | None) -> None:
        setting = self._settings.setdefault(name, _Setting())
        setting.rows.append(row)
        self._rows.append(row)
        setting.times.append(time)
        if self._landmarker is None:
            return
        setting.rendered = setting.rendered or _Face(self._landmarker, self._syncnet)
        setting.rendered.add(time, image)
        if truth is not None:
            setting.true = setting.true or _Face(self._landmarker, self._syncnet)
            setting.true.add(time, truth)

    def finish(
        self, sounds: Mapping[str, Sound], samples: Mapping[str, np.ndarray]
    ) -> tuple[dict[str, dict[str, float]], list[dict[str, float]]]:
        """The numbers of each setting, and a row for each frame and setting in the order in which they came.

        Args:
          sounds: what the frames of a setting should say, where that is known.
          samples: the sound itself at 16 kHz, mono, from place 0 on, for SyncNet.
        """
        settings = {}
        for name, setting in self._settings.items():
            values = {key: _mean([row[key] for row in setting.rows if key in row]) for key in _OF_PICTURES}
            if setting.rendered is not None:
                found, truth = (face and face.follower.landmarks() for face in (setting.rendered, setting.true))
                whole, of_frame = face_scores(found, truth, np.array(setting.times), sounds.get(name))
                values |= whole | self._sync_scores(setting, samples.get(name))
                for k, row in enumerate(setting.rows):
                    row |= {key: float(value[k]) for key, value in of_frame.items()}
            settings[name] = {key: value for key, value in values.items() if np.isfinite(value)}
        return {name: _ordered(values) for name, values in settings.items()}, self._rows

    def _sync_scores(self, setting: _Setting, samples: np.ndarray | None) -> dict[str, float]:
        if self._syncnet is None or samples is None:
            return {}
        speech = speech_embeddings(self._syncnet, samples, max(setting.times) + MOST_LAG + 1)
        scores = {}
        for suffix, face in (("", setting.rendered), ("_truth", setting.true)):
            if face is not None:
                found = sync_scores(*face.lips.finish(), speech)
                scores |= {f"{key}{suffix}": value for key, value in found.items()}
        return scores


def as_written(image: np.ndarray) -> np.ndarray:
    """A picture [H, W, 3] rounded to 8 bits, still in [0, 1]."""
    return np.round(np.clip(image, 0.0, 1.0) * 255.0) / 255.0


def measure(image: np.ndarray, truth: np.ndarray, face_rect: np.ndarray) -> dict[str, float]:
    """PSNR, PSNR inside the face rectangle, SSIM, and MS-SSIM (NaN for small pictures); float [H, W, 3]."""
    return {
        "psnr": psnr(image, truth),
        "psnr_face": psnr(crop(image, face_rect), crop(truth, face_rect)),
        "ssim": ssim(image, truth),
        "ms_ssim": ms_ssim(image, truth),
    }


def make_scorer(networks: str, faces: bool, smallest: int, syncnet: str | None = None) -> tuple[Scorer, dict[str, str]]:
    """A scorer, and why it leaves out what it does; networks whose weights cannot be had are told and left out.

    Args:
      networks: of LPIPS, by commas.
      faces: whether faces are measured.
      smallest: pixels of the frames' shorter side.
      syncnet: SyncNet's weights, from the user.

    Raises:
      UserError: an unknown network, or weights that are not SyncNet's.
    """
    names = [name for name in networks.replace(" ", "").split(",") if name]
    unknown = [name for name in names if name not in lpips.NETWORKS]
    if unknown:
        raise UserError(f"config.eval.lpips names {', '.join(unknown)}; there are: {', '.join(lpips.NETWORKS)}")
    left_out = {} if smallest >= MS_SSIM_SMALLEST else {"ms_ssim": f"frames below {MS_SSIM_SMALLEST} pixels"}
    metrics = {}
    for name in lpips.NETWORKS:
        key = f"lpips_{name}"
        if name not in names:
            left_out[key] = "not asked for"
        elif smallest < lpips.SMALLEST:
            left_out[key] = f"frames below {lpips.SMALLEST} pixels"
        elif (path := _weights(key, left_out)) is not None:
            metrics[name] = Lpips(name, path)
    landmarker = None
    if not faces:
        left_out["faces"] = "not asked for"
    elif (path := _weights("face_landmarker", left_out, "faces")) is not None:
        landmarker = FaceLandmarker(path)
    if not syncnet:
        left_out["sync_confidence"] = "config.eval.syncnet is not given"
    elif landmarker is None:
        left_out["sync_confidence"] = "it needs landmarks"
    return Scorer(metrics, landmarker, SyncNet(syncnet) if syncnet and landmarker else None), left_out


def _weights(name: str, left_out: dict[str, str], what: str | None = None):
    """The path of a network's weights; None, told and noted, where they cannot be had."""
    try:
        return weights.path(name)
    except UserError as error:
        say(f"evaluation leaves {what or name} out: {error}")
        left_out[what or name] = "weights not available"
        return None


def _mean(values: list[float]) -> float:
    """Over those that are numbers; NaN where none is."""
    known = np.array([value for value in values if np.isfinite(value)])
    return float(known.mean()) if len(known) else float("nan")


def _ordered(values: dict[str, float]) -> dict[str, float]:
    order = list(MEASURES)
    return {
        name: round(values[name], 4)
        for name in sorted(values, key=lambda name: (order.index(name.removesuffix("_truth")), name))
    }
