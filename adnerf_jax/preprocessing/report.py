"""What the preparation found, for the person who films: `report.json`, and `preview.png` to look at."""

import dataclasses
import math
from collections.abc import Iterable
from typing import Any

import cv2
import numpy as np
from scipy.spatial.transform import Rotation

from adnerf_jax.common.timing import FPS
from adnerf_jax.face import parsing
from adnerf_jax.face.focal import FocalEstimate
from adnerf_jax.face.rigid import Pinhole
from adnerf_jax.face.tracking import head_to_camera
from adnerf_jax.preprocessing.survey import Survey

MOST_FLICKER = 0.005  # of the head; the built-in subject and two recordings have 0.0003
_PANEL = 400  # pixels of a panel's side
_TINTS = {parsing.HEAD: (255, 80, 80), parsing.NECK: (80, 220, 80), parsing.TORSO: (80, 120, 255)}
_AXES = ((255, 60, 60), (60, 220, 60), (60, 120, 255))
_AXIS = 6.0  # cm
_INK, _PAPER = (30, 30, 30), (250, 250, 250)


@dataclasses.dataclass(frozen=True)
class Check:
    """One thing that matters.

    Attributes:
      name: of it.
      value: measured; None where it could not be.
      unit: of the value.
      ok: whether it is good enough.
      advice: what to film better; empty where `ok`.
    """

    name: str
    value: float | None
    unit: str
    ok: bool
    advice: str


def judge(survey: Survey, fps: float, width: int, height: int) -> list[Check]:
    """What can be told before any work.

    Args:
      survey: of the video.
      fps: pictures a second in the file.
      width, height: of the frames in the dataset.
    """
    motion = survey.camera_motion
    return [
        _check("length", survey.duration, "s", survey.duration >= 60, "film 3 to 5 minutes: more sounds are learnt"),
        _check("shorter side", min(width, height), "px", min(width, height) >= 256, "film larger than 256 pixels"),
        _check("frame rate", fps, "1/s", fps >= 24, "film at 25 pictures a second: slower ones are repeated"),
        _check("cuts", len(survey.cuts), "", not survey.cuts, "film in one piece: only the longest shot is used"),
        _check(
            "camera motion",
            None if motion is None else 100 * motion,
            "% of the width in a second",
            motion is None or motion < 0.004,
            "put the camera on a tripod: the background is taken to stand still",
        ),
        _check(
            "light change",
            100 * survey.light_change,
            "%",
            survey.light_change < 0.15,
            "film in steady light, with the camera's exposure locked",
        ),
        _check("brightness", survey.brightness, "of 255", survey.brightness > 25, "film in brighter light"),
        _check("sound level", survey.sound_level, "dB", survey.sound_level > -40, "speak nearer to the microphone"),
        _check(
            "clipped sound", 100 * survey.sound_clipped, "%", survey.sound_clipped < 0.001, "record at a lower level"
        ),
    ]


def flicker(triples: Iterable[tuple[np.ndarray, np.ndarray, np.ndarray]]) -> float:
    """Share of the head's pixels that belong to it, or do not, in a single frame between two that agree.

    Args:
      triples: part maps uint8 [H, W] of three frames in a row, for some places in the clip.
    """
    alone = total = 0
    for triple in triples:
        before, now, after = (parts == parsing.HEAD for parts in triple)
        alone += int(((before == after) & (now != before)).sum())
        total += int(now.sum())
    return alone / max(total, 1)


def judge_result(
    records: dict[str, dict[str, Any]], transforms: np.ndarray, focal: float, face_share: float, flickering: float
) -> list[Check]:
    """What the steps found.

    Args:
      records: of the steps.
      transforms: [N, 4, 4], camera-to-head of the usable frames.
      focal: px, with which they were found.
      face_share: mean height of the face in parts of the picture's.
      flickering: from `flicker`.
    """
    frames = records["frames"]["frames"]
    turned = 100 * (frames - records["pose"]["usable"]) / frames
    sound, pose, faces = records["sound"], records["pose"], records["landmarks"]["at_once"]
    checks = [
        _check("frames without a face or pose", turned, "%", turned < 5, "keep the whole face in view"),
        _check("faces at once", faces, "", faces <= 1, "film one person alone: only the largest face is followed"),
        _check("height of the face", 100 * face_share, "% of the picture", face_share > 0.2, "come nearer"),
        _check("reprojection", pose["reprojection_px"], "px", pose["reprojection_px"] < 1.5, "check the focal length"),
        _check(
            "flicker of the head's outline",
            100 * flickering,
            "% of the head",
            flickering < MOST_FLICKER,
            "film before a background unlike hair and skin",
        ),
        _check("background seen", 100 * records["background"]["seen"], "%", True, ""),
    ]
    if "focal_by_motion" in pose:
        checks += _judge_focal(FocalEstimate.from_json(pose["focal_by_motion"]), focal)
    for name, low, high in zip(("yaw", "pitch", "roll"), *pose_range(transforms), strict=True):
        checks.append(_check(f"range of {name}", high - low, "degrees", high - low < 60, "turn the head less"))
    if "offset_s" in sound:
        clear = sound["offset_clear"]
        checks.append(
            _check(
                "sound late by", sound["offset_s"], "s", clear, "the lips hardly tell: check it, give --audio_offset"
            )
        )
    return checks


def _judge_focal(by_motion: FocalEstimate, given: float) -> list[Check]:
    agrees = not by_motion.sure or by_motion.low <= given <= by_motion.high
    advice = f"{given:.0f} was taken: prepare again with --focal={by_motion.focal:.0f}"
    return [
        _check("focal length by motion", by_motion.focal, "px", agrees, advice),
        _check("its uncertainty", 100 * by_motion.uncertainty, "%", True, ""),
    ]


def pose_range(transforms: np.ndarray) -> np.ndarray:
    """2nd and 98th percentile [2, 3] of yaw, pitch and roll in degrees, of camera-to-head [N, 4, 4]."""
    angles = Rotation.from_matrix(transforms[:, :3, :3].transpose(0, 2, 1)).as_euler("YXZ", degrees=True)
    return np.percentile(angles, [2, 98], axis=0)


def to_json(survey: Survey, checks: list[Check]) -> dict[str, Any]:
    """What `report.json` holds: `{"ok", "shot", "checks": [{"name", "value", "unit", "ok", "advice"}]}`."""
    return {
        "ok": all(check.ok for check in checks),
        "shot": {"start_s": survey.start, "duration_s": survey.duration, "cuts_s": list(survey.cuts)},
        "checks": [dataclasses.asdict(check) for check in checks],
    }


def _check(name: str, value: float | None, unit: str, ok: bool, advice: str) -> Check:
    rounded = None if value is None or not math.isfinite(value) else round(float(value), 3)
    return Check(name, rounded, unit, bool(ok), "" if ok else advice)


def preview(
    rgb: np.ndarray,
    points: np.ndarray,
    parts: np.ndarray,
    background: np.ndarray,
    transform: np.ndarray,
    camera: Pinhole,
    curve: list[float] | None,
) -> np.ndarray:
    """Six panels: frame, landmarks, parts, background, the head's axes and the offset curve.

    Args:
      rgb, background: uint8 [H, W, 3].
      points: [478, 2] px.
      parts: uint8 [H, W].
      transform: [4, 4], camera-to-head.
      camera: intrinsics.
      curve: `sync.Offset.curve`; None where it was not measured.

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
        (_with_axes(frame.copy(), transform, camera, scale), "pose: right, up, forward"),
        (_plot(curve, size), "lips explained by the sound, by offset"),
    ]
    for picture, title in panels:
        cv2.rectangle(picture, (0, 0), (size[0], 20), _PAPER, -1)
        cv2.putText(picture, title, (6, 15), cv2.FONT_HERSHEY_SIMPLEX, 0.45, _INK, 1, cv2.LINE_AA)
    pictures = [picture for picture, _ in panels]
    return np.vstack([np.hstack(pictures[:3]), np.hstack(pictures[3:])])


def _with_axes(picture: np.ndarray, transform: np.ndarray, camera: Pinhole, scale: float) -> np.ndarray:
    ends = np.vstack([np.zeros(3), _AXIS * np.eye(3)])
    seen = camera.project(head_to_camera(transform[None]).move(ends)[0]) * scale
    origin, *tips = np.rint(seen).astype(int).tolist()
    for tip, colour in zip(tips, _AXES, strict=True):
        cv2.arrowedLine(picture, origin, tip, colour, 2, cv2.LINE_AA, tipLength=0.15)
    return picture


def _plot(curve: list[float] | None, size: tuple[int, int]) -> np.ndarray:
    """The offset curve over lags in frames, its top marked."""
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
    write("ms late", (right - 48, bottom + 26))
    for value in np.linspace(low, high, 5):
        write(f"{value:.2f}", (4, place(0, value)[1] + 4))
    line = np.array([place(k - most, value) for k, value in enumerate(values)])
    cv2.polylines(picture, [line], False, (200, 60, 60), 2, cv2.LINE_AA)
    cv2.circle(picture, line[values.argmax()].tolist(), 5, (200, 60, 60), -1, cv2.LINE_AA)
    return picture
