"""Quality checks of a video and its dataset, with advice on filming: `report.json` and `preview.png`."""

import dataclasses
import math
from collections.abc import Iterable
from typing import Any

import cv2
import numpy as np
from scipy.spatial.transform import Rotation

from adnerf_jax.common.errors import Option, as_flag, join_message
from adnerf_jax.common.timing import FPS
from adnerf_jax.face import parsing
from adnerf_jax.face.focal import FocalEstimate
from adnerf_jax.face.rigid import Pinhole
from adnerf_jax.face.tracking import head_to_camera
from adnerf_jax.preprocessing.survey import Survey

MAX_FLICKER = 0.005  # share of the head's pixels; the built-in subject and two recordings have 0.0003
MAX_NOISE = 0.04  # twelve recordings have at most 0.008, one in the dark 0.25
MAX_CUT = 0.5  # share of the frames
# Space above the face's landmarks for hair, in heights of the face, and beside them for ears, in widths.
_HAIR, _EARS = 0.24, 0.15
_FOREHEAD, _CHIN, _CHEEKS = 10, 152, (234, 454)  # landmarks
MAX_REPROJECTION = 1.5  # px
MAX_UNREFINED = 10  # % of the frames
_PANEL = 400  # width of a panel in pixels
_TINTS = {parsing.HEAD: (255, 80, 80), parsing.NECK: (80, 220, 80), parsing.TORSO: (80, 120, 255)}
_AXES = ((255, 60, 60), (60, 220, 60), (60, 120, 255))
_AXIS = 6.0  # length of the drawn axes in cm
_INK, _PAPER = (30, 30, 30), (250, 250, 250)


@dataclasses.dataclass(frozen=True)
class Check:
    """One quality check.

    Attributes:
      name: name of the measured quantity.
      value: measured value; None if it could not be measured.
      unit: unit of the value.
      ok: whether the value is good enough.
      advice: parts of a message (`errors.join_message`) that names what to improve; empty if `ok`.
    """

    name: str
    value: float | None
    unit: str
    ok: bool
    advice: tuple[str | Option, ...]


def video_checks(survey: Survey, fps: float, width: int, height: int) -> list[Check]:
    """Checks of the video alone, before any step has run.

    Args:
      survey: survey of the video.
      fps: frame rate of the file.
      width, height: size of the frames in the dataset.
    """
    motion = survey.camera_motion
    return [
        _check("length", survey.duration, "s", survey.duration >= 60, "film for 3 to 5 minutes, to cover more speech"),
        _check("shorter side", min(width, height), "px", min(width, height) >= 256, "film at 256 pixels or more"),
        _check("frame rate", fps, "1/s", fps >= 24, "film at 25 fps or more; missing frames are repeated"),
        _check("cuts", len(survey.cuts), "", not survey.cuts, "film without cuts; only the longest shot is used"),
        _check(
            "camera motion",
            None if motion is None else 100 * motion,
            "% of the width per second",
            motion is None or motion < 0.004,
            "put the camera on a tripod; the background must not move",
        ),
        _check(
            "light change",
            100 * survey.light_change,
            "%",
            survey.light_change < 0.15,
            "film in constant light, with the exposure of the camera locked",
        ),
        _check(
            "noise",
            100 * survey.noise,
            "% of the brightness",
            survey.noise < MAX_NOISE,
            "film in brighter light, a lamp or a window in front of the face; dark pictures are noisy",
        ),
        _check("brightness", survey.brightness, "of 255", survey.brightness > 25, "film in brighter light"),
        _check("sound level", survey.sound_level, "dB", survey.sound_level > -40, "speak closer to the microphone"),
        _check(
            "clipped sound",
            100 * survey.sound_clipped,
            "%",
            survey.sound_clipped < 0.001,
            "record the sound at a lower level",
        ),
    ]


def share_cut(points: np.ndarray, width: int) -> float:
    """Share of the frames in which the picture's border cuts the head.

    Args:
      points: [N, 478, 2] px, landmarks.
      width: of the picture in pixels.
    """
    top, left, right = points[:, _FOREHEAD], points[:, _CHEEKS[0]], points[:, _CHEEKS[1]]
    height = np.linalg.norm(points[:, _CHIN] - top, axis=-1)
    beside = np.minimum(left[:, 0], width - right[:, 0]) / np.maximum(np.linalg.norm(right - left, axis=-1), 1.0)
    return float(((top[:, 1] < _HAIR * height) | (beside < _EARS)).mean())


def head_checks(cut: float, checks: list[Check]) -> list[Check]:
    """The checks with that of the head's room in the picture; where it has none, the camera is not to blame.

    Args:
      cut: from `share_cut`.
      checks: other checks.
    """
    room = _check(
        "frames with a cut head",
        100 * cut,
        "%",
        cut < MAX_CUT,
        "film from further away or crop less: the whole hair, both ears and the shoulders in view, and background "
        "around them",
    )
    # What moves at the border of the picture is the head then.
    excused = checks if room.ok else [_excused(check) if check.name == "camera motion" else check for check in checks]
    return [*excused, room]


def _excused(check: Check) -> Check:
    return dataclasses.replace(check, value=None, ok=True, advice=())


def flicker(triples: Iterable[tuple[np.ndarray, np.ndarray, np.ndarray]]) -> float:
    """Pixels whose label as head differs in one frame from both its neighbours, as a share of the head's pixels.

    Args:
      triples: part maps uint8 [H, W] of three consecutive frames, for some places in the clip.
    """
    flickering = total = 0
    for triple in triples:
        before, now, after = (parts == parsing.HEAD for parts in triple)
        flickering += int(((before == after) & (now != before)).sum())
        total += int(now.sum())
    return flickering / max(total, 1)


def result_checks(
    records: dict[str, dict[str, Any]], transforms: np.ndarray, focal: float, face_share: float, flickering: float
) -> list[Check]:
    """Checks of what the steps found.

    Args:
      records: records of the steps, by name.
      transforms: [N, 4, 4], camera-to-head of the usable frames.
      focal: focal length in pixels that the poses were found with.
      face_share: mean height of the face as a share of the frame's height.
      flickering: result of `flicker`.
    """
    frames = records["frames"]["frames"]
    unusable = 100 * (frames - records["pose"]["usable"]) / frames
    sound, pose, faces = records["sound"], records["pose"], records["landmarks"]["max_faces"]
    checks = [
        _check("frames without a face or pose", unusable, "%", unusable < 5, "keep the whole face in view"),
        _check("faces in a frame", faces, "", faces <= 1, "film one person alone; only the largest face is used"),
        _check(
            "frames with a covered mouth",
            100 * records["landmarks"]["mouth_covered"] / frames,
            "%",
            not records["landmarks"]["mouth_covered"],
            _covered_advice(records["landmarks"]),
        ),
        _check("height of the face", 100 * face_share, "% of the picture", face_share > 0.2, "film closer to the face"),
        *_refinement_checks(pose),
        _check(
            "flicker of the head's outline",
            100 * flickering,
            "% of the head",
            flickering < MAX_FLICKER,
            "film in front of a background that differs from hair and skin",
        ),
        _check("visible background", 100 * records["background"]["seen"], "%", True),
    ]
    if "focal_by_motion" in pose:
        checks += _focal_checks(FocalEstimate.from_json(pose["focal_by_motion"]), focal)
    for name, low, high in zip(("yaw", "pitch", "roll"), *pose_range(transforms), strict=True):
        checks.append(_check(f"range of {name}", high - low, "degrees", high - low < 60, "turn the head less"))
    if "offset_s" in sound:
        checks.append(
            _check(
                "delay of the sound",
                sound["offset_s"],
                "s",
                sound["offset_clear"],
                "the measurement is unreliable; check that sound and lips match, and set ",
                Option("audio_offset", "SECONDS"),
                " if they do not",
            )
        )
    return checks


def _covered_advice(landmarks: dict[str, Any]) -> str:
    covered, faces = landmarks["mouth_covered"], landmarks["faces"]
    what = f"in {covered} of {faces} frames something covers the mouth; "
    if landmarks["lips_shown"]:
        return what + "they are left out: keep hands, cups and the microphone below the chin"
    return what + "no lips can be learned: film again with the microphone and hands below the chin"


def _refinement_checks(pose: dict[str, Any]) -> list[Check]:
    """Checks of the poses' refinement; a wrong focal length has a check of its own, which does not blame motion."""
    remedy = "move more slowly, and film sharper pictures in brighter light, at 25 frames a second or more"
    error = pose["reprojection_px"]
    kept = 100 * pose["kept_from_landmarks"] / max(pose["usable"], 1)
    return [
        _check("reprojection error", error, "px", error < MAX_REPROJECTION, f"the head is not well tracked: {remedy}"),
        _check(
            "pose refinement",
            kept,
            "% of the frames keep the landmarks' poses",
            kept < MAX_UNREFINED,
            f"the head's texture cannot be followed there: {remedy}",
        ),
    ]


def _focal_checks(by_motion: FocalEstimate, given: float) -> list[Check]:
    agrees = not by_motion.sure or by_motion.low <= given <= by_motion.high
    return [
        _check(
            "focal length estimated from motion",
            by_motion.focal,
            "px",
            agrees,
            f"{given:.0f} was used; prepare again with ",
            Option("focal", f"{by_motion.focal:.0f}"),
        ),
        _check("uncertainty of the estimated focal length", 100 * by_motion.uncertainty, "%", True),
    ]


def pose_range(transforms: np.ndarray) -> np.ndarray:
    """2nd and 98th percentile of yaw, pitch and roll in degrees, [2, 3], of camera-to-head matrices [N, 4, 4]."""
    angles = Rotation.from_matrix(transforms[:, :3, :3].transpose(0, 2, 1)).as_euler("YXZ", degrees=True)
    return np.percentile(angles, [2, 98], axis=0)


def to_json(survey: Survey, checks: list[Check]) -> dict[str, Any]:
    """The contents of `report.json`: `{"ok", "shot", "checks": [{"name", "value", "unit", "ok", "advice"}]}`."""
    return {
        "ok": all(check.ok for check in checks),
        "shot": {"start_s": survey.start, "duration_s": survey.duration, "cuts_s": list(survey.cuts)},
        "checks": [{**vars(check), "advice": join_message(check.advice, as_flag)} for check in checks],
    }


def _check(name: str, value: float | None, unit: str, ok: bool, *advice: str | Option) -> Check:
    rounded = None if value is None or not math.isfinite(value) else round(float(value), 3)
    return Check(name, rounded, unit, bool(ok), () if ok else advice)


def preview(
    rgb: np.ndarray,
    points: np.ndarray,
    parts: np.ndarray,
    background: np.ndarray,
    transform: np.ndarray,
    camera: Pinhole,
    curve: list[float] | None,
) -> np.ndarray:
    """Six panels: frame, landmarks, parts, background, the head's axes and the curve of the sound's offset.

    Args:
      rgb, background: uint8 [H, W, 3].
      points: [478, 2] px.
      parts: uint8 [H, W].
      transform: [4, 4], camera-to-head.
      camera: intrinsics.
      curve: `sync.Offset.curve`; None if it was not measured.

    Returns:
      uint8 RGB [2 h, 1200, 3].
    """
    scale = _PANEL / rgb.shape[1]
    size = (_PANEL, max(round(rgb.shape[0] * scale), 1))
    frame, clean = (cv2.resize(picture, size, interpolation=cv2.INTER_AREA) for picture in (rgb, background))
    marked = frame.copy()
    for x, y in points * scale:
        cv2.circle(marked, (round(x), round(y)), 1, (80, 255, 80), -1, cv2.LINE_AA)
    labels = cv2.resize(parts, size, interpolation=cv2.INTER_NEAREST)
    tinted = frame.copy()
    for part, colour in _TINTS.items():
        tinted[labels == part] = 0.55 * tinted[labels == part] + 0.45 * np.array(colour)
    panels = [
        (frame, "frame"),
        (marked, "landmarks"),
        (tinted, "head, neck, torso"),
        (clean, "background"),
        (_draw_axes(frame.copy(), transform, camera, scale), "pose: right, up, forward"),
        (_plot(curve, size), "lip motion explained by the sound"),
    ]
    for picture, title in panels:
        cv2.rectangle(picture, (0, 0), (size[0], 20), _PAPER, -1)
        cv2.putText(picture, title, (6, 15), cv2.FONT_HERSHEY_SIMPLEX, 0.45, _INK, 1, cv2.LINE_AA)
    pictures = [picture for picture, _ in panels]
    return np.vstack([np.hstack(pictures[:3]), np.hstack(pictures[3:])])


def _draw_axes(picture: np.ndarray, transform: np.ndarray, camera: Pinhole, scale: float) -> np.ndarray:
    ends = np.vstack([np.zeros(3), _AXIS * np.eye(3)])
    seen = camera.project(head_to_camera(transform[None]).move(ends)[0]) * scale
    origin, *tips = np.rint(seen).astype(int).tolist()
    for tip, colour in zip(tips, _AXES, strict=True):
        cv2.arrowedLine(picture, origin, tip, colour, 2, cv2.LINE_AA, tipLength=0.15)
    return picture


def _plot(curve: list[float] | None, size: tuple[int, int]) -> np.ndarray:
    """Plots the offset curve over the lag, with its maximum marked."""
    picture = np.full((size[1], size[0], 3), _PAPER, np.uint8)
    if not curve:
        cv2.putText(picture, "not measured", (30, 60), cv2.FONT_HERSHEY_SIMPLEX, 0.5, _INK, 1, cv2.LINE_AA)
        return picture
    values, most = np.array(curve), len(curve) // 2
    low, high = min(0.0, values.min()), max(values.max(), 0.05) * 1.1
    left, right, top, bottom = 40, size[0] - 12, 32, size[1] - 28

    def place(lag: float, value: float) -> tuple[int, int]:
        x = left + (lag + most) / (2 * most) * (right - left)
        return round(x), round(bottom - (value - low) / (high - low) * (bottom - top))

    def write(text: str, at: tuple[int, int]) -> None:
        cv2.putText(picture, text, at, cv2.FONT_HERSHEY_SIMPLEX, 0.35, _INK, 1, cv2.LINE_AA)

    cv2.rectangle(picture, (left, top), (right, bottom), (180, 180, 180), 1)
    for lag in range(-most, most + 1, 5):
        x, _ = place(lag, low)
        cv2.line(picture, (x, bottom), (x, bottom + 3), _INK, 1)
        write(f"{1000 * lag / FPS:.0f}", (x - 14, bottom + 15))
    write("delay in ms", (right - 72, bottom + 26))
    for value in np.linspace(low, high, 5):
        write(f"{value:.2f}", (4, place(0, value)[1] + 4))
    line = np.array([place(k - most, value) for k, value in enumerate(values)])
    cv2.polylines(picture, [line], False, (200, 60, 60), 2, cv2.LINE_AA)
    cv2.circle(picture, line[values.argmax()].tolist(), 5, (200, 60, 60), -1, cv2.LINE_AA)
    return picture
