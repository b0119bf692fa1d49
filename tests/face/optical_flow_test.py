"""Correspondences between frames and anchors, on pictures with known motion."""

import cv2
import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from adnerf_jax.face import optical_flow as flow
from adnerf_jax.face.landmarks import INNER_LIPS, LEFT_EYE
from adnerf_jax.face.rigid import Pinhole, Poses

SIZE = 160
CAMERA = Pinhole(427.0, 80.0, 80.0)


@pytest.fixture(scope="module")
def plane():
    """A function that renders a textured plane through the head's origin in a pose."""
    rng = np.random.default_rng(0)
    texture = cv2.GaussianBlur(rng.uniform(0, 255, (400, 400, 3)).astype(np.float32), (0, 0), 3.0)
    texture = cv2.normalize(texture, None, 0, 255, cv2.NORM_MINMAX)

    def look(pose, light=1.0):
        corners = np.array([[-16, 16, 0], [16, 16, 0], [16, -16, 0], [-16, -16, 0]], float)
        seen = CAMERA.project(pose.move(corners)[0]).astype(np.float32)
        flat = np.array([[0, 0], [399, 0], [399, 399], [0, 399]], np.float32)
        picture = cv2.warpPerspective(texture, cv2.getPerspectiveTransform(flat, seen), (SIZE, SIZE))
        return np.clip(picture * light, 0, 255).astype(np.uint8)

    return look


def pose(*degrees):
    return Poses(Rotation.from_euler("yxz", [degrees], degrees=True).as_matrix(), np.array([[0.2, -0.1, -95.0]]))


def test_anchors_lie_far_apart_and_are_all_different():
    angles = np.concatenate([np.zeros(50), np.linspace(0, 20, 20), [-15.0]])
    rotation = Rotation.from_euler("y", angles[:, None], degrees=True).as_matrix()
    chosen = flow.choose_anchors(rotation, 4)
    assert len(set(chosen)) == 4 and {69, 70} <= set(chosen.tolist())
    assert len(flow.choose_anchors(np.tile(np.eye(3), (5, 1, 1)), 4)) == 1


def test_angles_between_rotations():
    turned = Rotation.from_euler("y", [[0], [30], [90]], degrees=True).as_matrix()
    np.testing.assert_allclose(np.degrees(flow.angles_between(turned[:1], turned)), [[0, 30, 90]], atol=1e-5)


def test_the_rigid_region_excludes_mouth_eyes_and_silhouette():
    points = np.random.default_rng(0).uniform(60, 100, (478, 2))
    points[INNER_LIPS], points[LEFT_EYE] = points[INNER_LIPS] * 0.1 + [80, 110], points[LEFT_EYE] * 0.1 + [95, 50]
    head = np.zeros((SIZE, SIZE), bool)
    head[20:140, 30:130] = True
    region = flow.rigid_region(head, points)
    x, y = np.rint(np.concatenate([points[INNER_LIPS], points[LEFT_EYE]])).astype(int).T
    assert region.any() and not region[y, x].any()
    assert not region[:22].any() and not region[:, :32].any() and not region[~head].any()


@pytest.mark.parametrize("degrees", [0, 30, 180])
def test_hair_that_hangs_below_the_ears_is_not_rigid(degrees):
    turn = Rotation.from_euler("z", degrees, degrees=True).as_matrix()[:2, :2]
    points = np.tile([0.0, -20.0], (478, 1))
    points[132], points[361], points[152] = [-15, 5], [15, 5], [0, 30]
    region = flow.rigid_region(np.ones((SIZE, SIZE), bool), points @ turn.T + SIZE / 2)

    def inside(x, y):
        column, row = np.rint(turn @ [x, y] + SIZE / 2).astype(int)
        return region[row, column]

    assert inside(-30, 0) and inside(30, 0) and inside(0, -40)
    assert not inside(-30, 10) and not inside(30, 10) and not inside(-30, 45)


def test_points_are_matched_after_a_rotation_and_a_change_of_brightness(plane):
    start, turned = pose(0, 0, 0), pose(10, -6, 8)
    first = plane(start)
    points = np.zeros((478, 2))
    points[:] = [20.0, 80.0]
    points[: len(points) // 2] = [140.0, 80.0]  # extent 120 px; the mobile regions are empty
    anchor = flow.make_anchor(0, first, np.ones((SIZE, SIZE), bool), points, np.tile([0.0, 0.0, -95.0], (468, 1)))
    assert len(anchor.pixels) > 50
    both = Poses(*(np.concatenate(pair) for pair in zip(start, turned, strict=True)))
    shape = CAMERA.unproject(anchor.pixels.astype(float), np.full(len(anchor.pixels), -95.0)) - start.translation
    off = both.stepped(np.array([[0.0] * 6, [0.01, -0.01, 0.01, 0.1, 0.1, 0.0]]))
    frames = [(0, first), (1, plane(turned, 0.7))]
    found = flow.Matches.join(*flow.match(frames, [anchor], shape, off, CAMERA, np.array([120.0, 120.0])))
    np.testing.assert_array_equal(found.pixels[found.frame == 0], anchor.pixels)
    second = found.frame == 1
    expected = CAMERA.project(turned.move(shape)[0])[found.point[second]]
    assert second.sum() > 0.5 * len(anchor.pixels)
    # A tenth of a pixel is what interpolation of the warped anchor leaves.
    assert np.median(np.linalg.norm(found.pixels[second] - expected, axis=1)) < 0.1


def test_a_frame_with_too_large_a_rotation_is_not_matched(plane):
    points = np.where(np.arange(478)[:, None] < 200, [20.0, 80.0], [140.0, 80.0])
    anchor = flow.make_anchor(0, plane(pose(0, 0, 0)), np.ones((SIZE, SIZE), bool), points, np.full((468, 3), -95.0))
    both = Poses(*(np.concatenate(p) for p in zip(pose(0, 0, 0), pose(40, 0, 0), strict=True)))
    shape = np.zeros((len(anchor.pixels), 3))
    (found,) = flow.match([(1, plane(pose(40, 0, 0)))], [anchor], shape, both, CAMERA, np.full(2, 120.0))
    assert len(found.frame) == 0
