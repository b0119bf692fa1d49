"""Zoom, crop, size, orbit and lens: positions in the new picture."""

import numpy as np
import pytest
import tiny

from adnerf_jax.common.errors import UserError
from adnerf_jax.nerf.cameras import pixel_grid, rays_through
from adnerf_jax.rendering.framing import as_framing, framing

CAMERA = tiny.camera()
PLACE = np.array([0.01, 0.02, -tiny.DEPTH])
POSE = tiny.pose(0.1, 0.05).astype(np.float32)


def where(framed, point) -> np.ndarray:
    """(row, column) at which a picture shows a point [3] of the learned camera's space, by its own rays."""
    pixels = np.asarray(pixel_grid(framed.height, framed.width))
    rays = framed.rays(framed.places(pixels), np.eye(4, dtype=np.float32))
    towards = np.asarray(point) - np.asarray(rays.origins)
    across = np.cross(towards, np.asarray(rays.directions)) / np.linalg.norm(rays.directions, axis=1)[:, None]
    return pixels[np.linalg.norm(across, axis=1).argmin()]


def project(point) -> np.ndarray:
    x, y, z = point
    return np.array([CAMERA.cy + CAMERA.focal * y / z, CAMERA.cx - CAMERA.focal * x / z])


def test_without_options_nothing_changes():
    assert framing(CAMERA, PLACE) is None and framing(CAMERA, PLACE, "") is None
    framed = as_framing(CAMERA)
    pixels = pixel_grid(CAMERA.height, CAMERA.width)
    assert framed.places(pixels) is pixels and framed.torso_places(pixels)[0] is pixels
    ours, plain = framed.rays(pixels, POSE), rays_through(pixels, POSE, CAMERA)
    np.testing.assert_array_equal(ours.directions, plain.directions)


def test_the_training_size_samples_at_the_training_pixels():
    framed = framing(CAMERA, PLACE, size=tiny.SIZE)
    pixels = pixel_grid(tiny.SIZE, tiny.SIZE)
    np.testing.assert_array_equal(framed.places(pixels), pixels)


@pytest.mark.parametrize(
    ("asked", "shape", "corners"),
    [
        (dict(size=64), (64, 64), ((-0.25, -0.25), (31.25, 31.25))),
        (dict(size="16"), (16, 16), ((0.5, 0.5), (30.5, 30.5))),
        (dict(crop="0.25,0,0.5,0.5"), (16, 16), ((0, 8), (15, 23))),
        (dict(crop=(0.25, 0, 0.5, 0.5), size=(32, 32)), (32, 32), ((-0.25, 7.75), (15.25, 23.25))),
        (dict(view="zoom=2"), (32, 32), ((7.75, 7.75), (23.25, 23.25))),
        (dict(size="64x32"), (32, 64), ((0, -16), (31, 47))),  # wider than learned: more to both sides
    ],
)
def test_positions_that_a_picture_shows(asked, shape, corners):
    framed = framing(CAMERA, PLACE, **asked)
    assert (framed.height, framed.width) == shape
    grid = np.asarray(framed.places(pixel_grid(*shape)))
    np.testing.assert_allclose(grid[[0, -1]], corners, atol=1e-5)
    places, met = framed.torso_places(grid)
    assert met.all()
    # The torso is sampled at the same places, clamped to the picture's edge.
    np.testing.assert_array_equal(places, np.clip(grid, -0.5, tiny.SIZE - 0.5))


def test_the_head_stays_in_its_place_when_the_camera_goes_around_it():
    for view in ("yaw=20", "pitch=-15", "focal=60", "yaw=-10,pitch=5,focal=120"):
        framed = framing(CAMERA, PLACE, view)
        np.testing.assert_allclose(where(framed, PLACE), np.round(project(PLACE)), atol=1)


def test_sides_come_into_view_as_the_camera_goes():
    nose = PLACE + [0, 0, 0.1]
    plain = where(as_framing(CAMERA), nose)
    right, above = where(framing(CAMERA, PLACE, "yaw=20"), nose), where(framing(CAMERA, PLACE, "pitch=20"), nose)
    # Seen from the viewer's right, what is near goes left; seen from above, it goes down.
    assert right[1] < plain[1] - 2 and above[0] > plain[0] + 2


def test_a_longer_lens_flattens_and_keeps_the_size():
    ear, nose = PLACE + [0.1, 0, 0], PLACE + [0.1, 0, 0.15]
    far = framing(CAMERA, PLACE, f"focal={2 * CAMERA.focal}")
    np.testing.assert_allclose(where(far, ear), where(as_framing(CAMERA), ear), atol=1)
    assert where(far, nose)[1] < where(as_framing(CAMERA), nose)[1]
    moved = far.scene(tiny.scene())
    assert float(moved.near) == pytest.approx(tiny.DEPTH - 0.2 + tiny.DEPTH)


def test_the_torsos_plane_is_seen_where_the_rays_meet_it():
    framed = framing(CAMERA, PLACE, "yaw=12,pitch=6,focal=100")
    pixels = np.array([[3.0, 5.0], [20.0, 30.0]], np.float32)
    rays = framed.rays(pixels, np.eye(4, dtype=np.float32))
    distance = (PLACE[2] - np.asarray(rays.origins)[:, 2]) / np.asarray(rays.directions)[:, 2]
    met = np.asarray(rays.origins) + distance[:, None] * np.asarray(rays.directions)
    places, whether = framed.torso_places(pixels)
    assert whether.all()
    np.testing.assert_allclose(places, [project(point) for point in met], atol=1e-3)


def test_the_torsos_edge_goes_on_up_to_the_horizon_of_its_plane():
    framed = framing(CAMERA, PLACE, f"yaw=60,focal={CAMERA.focal / 5}")
    pixels = pixel_grid(CAMERA.height, CAMERA.width)
    places, met = framed.torso_places(pixels)
    rays = framed.rays(pixels, np.eye(4, dtype=np.float32))
    np.testing.assert_array_equal(met, np.asarray(rays.directions)[:, 2] < -1e-3)
    assert 0 < met.sum() < len(pixels)
    assert np.isfinite(places).all() and places.min() >= -0.5 and places.max() <= tiny.SIZE - 0.5


def test_the_background_is_cut_at_the_same_places():
    picture = np.zeros((32, 32, 3), np.uint8)
    picture[..., 0], picture[..., 1] = np.mgrid[:32, :32] * 8
    framed = framing(CAMERA, PLACE, "zoom=2", size=32)
    cut = framed.cut(picture)
    places = np.asarray(framed.places(pixel_grid(32, 32))).reshape(32, 32, 2)
    np.testing.assert_allclose(cut[..., :2], 8 * places, atol=1)  # rounded to 1/32 pixel and to a whole grey level


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        (dict(view="zoom=0"), "zoom goes from 0.1 to 10"),
        (dict(view="yaw=90"), "up to 60 degrees"),
        (dict(view="yaw=nan"), "expected yaw=number"),
        (dict(view={"focal": float("inf")}), "expected yaw=number"),
        (dict(view="tilt=1"), "there is no 'tilt'; there are yaw, pitch, zoom, focal"),
        (dict(view="yaw=much"), "expected yaw=number"),
        (dict(size="big"), "expected pixels of the longer side"),
        (dict(size=4), "at least 16 pixels"),
        (dict(size="20000x16"), "at most 16384 pixels"),
        (dict(size="1000000"), "GiB to render, this machine has"),
        (dict(crop="0,0,2,1"), "is not a part of the picture"),
        (dict(crop="0,0,1,nan"), "is not a part of the picture"),
        (dict(crop="0,nan,1,1"), "is not a part of the picture"),
        (dict(crop="0,0"), "expected x,y,width,height"),
    ],
)
def test_invalid_framings_are_refused(asked, message):
    with pytest.raises(UserError, match=message):
        framing(CAMERA, PLACE, **asked)
