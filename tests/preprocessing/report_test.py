"""The report: its checks and the preview."""

import dataclasses

import cv2
import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from adnerf_jax.common.errors import Option
from adnerf_jax.face import parsing
from adnerf_jax.face.focal import FocalEstimate
from adnerf_jax.face.rigid import Pinhole
from adnerf_jax.preprocessing import report
from adnerf_jax.preprocessing.survey import Survey

GOOD = Survey(7500, (), 0.0, 300.0, 0.0005, 0.03, 110.0, -22.0, 0.0)


def failed_checks(survey, fps=25.0, width=512, height=512):
    return [check.name for check in report.video_checks(survey, fps, width, height) if not check.ok]


@pytest.mark.parametrize(
    "change, name",
    [
        ({"duration": 20.0}, "length"),
        ({"cuts": (3.0,)}, "cuts"),
        ({"camera_motion": 0.02}, "camera motion"),
        ({"light_change": 0.4}, "light change"),
        ({"brightness": 10.0}, "brightness"),
        ({"sound_level": -50.0}, "sound level"),
        ({"sound_clipped": 0.05}, "clipped sound"),
    ],
)
def test_each_fault_fails_its_check_alone(change, name):
    assert failed_checks(GOOD) == []
    assert failed_checks(dataclasses.replace(GOOD, **change)) == [name]


def test_size_and_frame_rate_are_checked():
    assert failed_checks(GOOD, fps=12.0, height=128) == ["shorter side", "frame rate"]
    assert failed_checks(dataclasses.replace(GOOD, camera_motion=None)) == []


def test_range_of_poses():
    yaw = np.linspace(-15, 15, 200)
    transforms = np.tile(np.eye(4), (200, 1, 1))
    transforms[:, :3, :3] = Rotation.from_euler("y", yaw[:, None], degrees=True).as_matrix().transpose(0, 2, 1)
    low, high = report.pose_range(transforms)
    np.testing.assert_allclose(high - low, [0.96 * 30, 0, 0], atol=0.1)


def test_preview_shows_parts_axes_and_the_maximum_of_the_curve():
    grey = np.full((200, 200, 3), 128, np.uint8)
    parts = np.full((200, 200), parsing.BACKGROUND, np.uint8)
    parts[60:140, 60:140] = parsing.HEAD
    pose = np.eye(4)
    pose[2, 3] = 0.84  # straight in front of the camera
    curve = np.exp(-0.5 * ((np.arange(-15, 16) - 6) / 2) ** 2).tolist()
    points = np.full((478, 2), 20.0)
    camera = Pinhole(533.0, 100.0, 100.0)
    picture = report.preview(grey, points, parts, grey, pose, camera, curve)
    assert picture.shape == (800, 1200, 3)
    frame, marked, tinted = (picture[30:400, k : k + 400].astype(int) for k in (0, 400, 800))
    assert (np.abs(frame - marked).sum(-1) > 0).any() and np.abs(frame - marked)[100:].sum() == 0
    changed = np.argwhere(np.abs(frame - tinted).sum(-1) > 0)
    np.testing.assert_allclose(changed.min(0) + [30, 0], [120, 120], atol=1)
    axes = picture[430:800, :1200][:, 400:800].astype(int)
    red = np.argwhere((axes[..., 0] > 200) & (axes[..., 1] < 120))
    assert red[:, 1].max() > 210 and abs(red[:, 0].mean() + 30 - 200) < 8  # to the right of the middle, level
    plot = picture[400:, 800:].astype(int)
    dot = cv2.erode(((plot[..., 0] > 180) & (plot[..., 1] < 90)).astype(np.uint8), np.ones((5, 5)))
    assert np.argwhere(dot)[:, 1].mean() == pytest.approx(40 + 21 / 30 * (388 - 40), abs=3)
    empty = report.preview(grey, points, parts, grey, pose, camera, None)
    assert (empty[:400] == picture[:400]).all() and not (empty[400:] == picture[400:]).all()


def test_flicker_counts_changes_of_one_frame_but_not_motion():
    def head(left: int) -> np.ndarray:
        parts = np.full((40, 60), parsing.BACKGROUND, np.uint8)
        parts[10:30, left : left + 20] = parsing.HEAD
        return parts

    moving = [head(left) for left in (10, 11, 12)]
    assert report.flicker([moving]) == 0
    without_ear = [head(10), head(10), head(10)]
    without_ear[1][10:12, 10:30] = parsing.BACKGROUND
    assert report.flicker([without_ear, [head(10)] * 3]) == 40 / (360 + 400)
    assert report.flicker([]) == 0


@pytest.mark.parametrize(
    "by_motion, fails",
    [
        ([1000.0, 950.0, 1060.0], True),  # reliable, and the given one lies outside
        ([1230.0, 1150.0, 1320.0], False),
        ([600.0, 300.0, 1100.0], False),  # a range that is too wide
        ([900.0, 500.0, None], False),
    ],
)
def test_another_focal_length_is_advised_only_if_the_estimate_is_reliable(by_motion, fails):
    check, uncertainty = report._focal_checks(FocalEstimate.from_json(by_motion), 1200.0)
    assert check.ok != fails and (Option("focal", "1000") in check.advice) == fails
    assert (uncertainty.value is None) == (by_motion[2] is None)
    assert FocalEstimate.from_json(by_motion).to_json() == by_motion


def refinement(**pose):
    return {check.name: check for check in report._refinement_checks({"usable": 200, "reprojection_px": 0.4, **pose})}


def test_frames_without_refinement_are_said_with_advice_on_motion_not_on_the_focal_length():
    good = refinement(kept_from_landmarks=4)
    assert all(check.ok for check in good.values()) and good["pose refinement"].value == 2
    bad = refinement(kept_from_landmarks=90, reprojection_px=7.9)
    assert not bad["pose refinement"].ok and bad["pose refinement"].value == 45 and not bad["reprojection error"].ok
    for check in bad.values():
        assert not any(isinstance(part, Option) for part in check.advice) and "more slowly" in "".join(check.advice)
