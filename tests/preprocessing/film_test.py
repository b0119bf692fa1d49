"""The built-in subject: geometry, video, ground truth, and whether the pretrained networks recognise a person."""

import json

import cv2
import jax.numpy as jnp
import numpy as np
import pytest

from adnerf_jax.common.timing import FPS, SAMPLE_RATE
from adnerf_jax.face.landmarks import detect_video, eye_openness, mouth_openness
from adnerf_jax.media.audio import read_audio
from adnerf_jax.media.video import probe, read_frames
from adnerf_jax.preprocessing.synthetic_subject.face import shape_difference
from adnerf_jax.preprocessing.synthetic_subject.figure import Figure
from adnerf_jax.preprocessing.synthetic_subject.film import (
    HEAD_AT_REST,
    LIMITS,
    Motion,
    Scene,
    blinks,
    head_translation,
    make_subject,
    perform,
    rotation,
)
from adnerf_jax.preprocessing.synthetic_subject.raster import Normals, rasterise, rims, subdivide
from adnerf_jax.pretrained import face_parsing, weights
from adnerf_jax.pretrained.face_landmarker import FaceLandmarker

SIZE, SECONDS = 96, 2.0
REST, OPEN_EYES = np.zeros(5), np.ones(2)
TETRAHEDRON = np.array([[0, 1, 2], [0, 2, 3], [0, 3, 1], [1, 3, 2]])


@pytest.fixture(scope="module")
def landmarker():
    return FaceLandmarker(weights.path("face_landmarker"))


@pytest.fixture(scope="module")
def figure(landmarker):
    return Figure(landmarker.canonical, landmarker.triangles)


@pytest.fixture(scope="module")
def film(tmp_path_factory):
    out = tmp_path_factory.mktemp("film")
    make_subject(out, size=SIZE, seconds=SECONDS, driving_seconds=1.0, seed=3)
    return out


def draw(figure: Figure, degrees=(0, 0, 0), articulation=REST, eyes=OPEN_EYES, size=256):
    """A picture and its coverage in the given pose."""
    turn = rotation(*np.radians(degrees))
    head, torso = Motion(turn, head_translation(turn, np.zeros(3))), Motion(np.eye(3), np.array(HEAD_AT_REST))
    return Scene(figure, size).draw(head, torso, np.asarray(articulation, float), np.asarray(eyes, float))


def poses(film):
    index = json.loads((film / "truth" / "poses.json").read_text())
    return index, np.array([frame["transform_matrix"] for frame in index["frames"]])


def test_rasteriser_agrees_with_brute_force():
    rng = np.random.default_rng(0)
    height, width = 24, 31
    points = np.column_stack([rng.uniform(-6, 36, 60), rng.uniform(-6, 30, 60), rng.uniform(0.5, 2.0, 60)])
    triangles = rng.permutation(60).reshape(20, 3)
    seen = rasterise(points, triangles, height, width)
    best, owner = np.zeros((height, width)), np.full((height, width), -1)
    x, y = np.meshgrid(np.arange(width) + 0.5, np.arange(height) + 0.5)
    for number, corners in enumerate(points[triangles]):
        matrix = np.vstack([corners[:, :2].T, np.ones(3)])
        if np.linalg.det(matrix) > 0:  # clockwise seen with y up: its back
            continue
        weights_at = np.einsum("ij,jhw->ihw", np.linalg.inv(matrix), np.stack([x, y, np.ones_like(x)]))
        near = np.einsum("i,ihw->hw", corners[:, 2], weights_at)
        front = (weights_at >= 0).all(0) & (near > best)
        best[front], owner[front] = near[front], number
    result = np.full(height * width, -1)
    result[seen.pixels] = seen.triangle
    np.testing.assert_array_equal(result.reshape(height, width), owner)
    # Interpolating the corners with the weights gives the pixel's centre.
    corners = points[triangles[seen.triangle], :2]
    centres = np.einsum("pk,pki->pi", seen.weights, corners)
    np.testing.assert_allclose(centres[:, 0], seen.pixels % width + 0.5, atol=1e-3)


def test_adjacent_triangles_leave_no_gap():
    rng = np.random.default_rng(1)
    side = 12
    grid = np.stack(np.meshgrid(np.linspace(0, 40, side), np.linspace(0, 40, side)), -1)
    grid[1:-1, 1:-1] += rng.uniform(-1, 1, (side - 2, side - 2, 2))
    points = np.column_stack([grid.reshape(-1, 2), np.ones(side**2)])
    a = (np.arange(side - 1)[:, None] * side + np.arange(side - 1)).reshape(-1)
    triangles = np.concatenate([np.stack([a, a + side, a + 1], -1), np.stack([a + 1, a + side, a + side + 1], -1)])
    assert len(rasterise(points, triangles, 40, 40).pixels) == 40 * 40


def test_subdivision_is_a_smoothing():
    matrix, finer = subdivide(TETRAHEDRON, 4)
    assert matrix.shape == (10, 4) and finer.shape == (16, 3)
    np.testing.assert_allclose(matrix.sum(1), 1.0)
    assert not rims(finer)
    _, finer = subdivide(TETRAHEDRON[:3], 4)
    (rim,) = rims(finer)
    assert len(rim) == 6 and 0 not in rim


def test_normals_point_outwards():
    vertices = np.array([[0, 0, 0], [0, 1, 0], [1, 0, 0], [0, 0, 1.0]])
    outside = Normals(TETRAHEDRON, 4)(vertices - vertices.mean(0))
    assert ((outside * (vertices - vertices.mean(0))).sum(-1) > 0).all()


def test_shape_differs_from_the_canonical_mesh(figure, landmarker):
    shape = figure.landmarks(REST, OPEN_EYES)
    assert shape_difference(shape, landmarker.canonical) >= 0.3  # cm
    turned = 1.7 * shape @ rotation(0.3, -0.2, 0.5).T + [3, 1, -2]
    assert shape_difference(turned, shape) < 1e-9


def test_articulation_moves_the_mouth(figure):
    def shape(*articulation):
        return figure.landmarks(np.array(articulation, float), OPEN_EYES)

    def gap(v):
        return v[13, 1] - v[14, 1]

    def width(v):
        return v[308, 0] - v[78, 0]

    rest = shape(0, 0, 0, 0, 0)
    assert abs(gap(rest)) < 0.02  # cm
    openings = [gap(shape(a, 0, 0, 0, 0)) for a in np.linspace(0, 1, 6)]
    assert (np.diff(openings) > 0.2).all() and 1.8 < openings[-1] < 2.8
    assert gap(shape(0.5, 0, 0, 1, 0)) < 0.02
    assert width(shape(0, 1, 0, 0, 0)) > width(rest) + 0.5 > width(shape(0, -1, 0, 0, 0)) + 1.0
    pout = shape(0, 0, 1, 0, 0)
    assert width(pout) < width(rest) - 0.8 and pout[13, 2] > rest[13, 2] + 0.5
    parted, tucked = shape(0.15, 0, 0, 0, 0), shape(0.15, 0, 0, 0, 1)
    assert tucked[17, 2] < parted[17, 2] - 0.1 and gap(tucked) < gap(parted)
    # The jaw moves the chin and leaves the upper face alone.
    moved = np.linalg.norm(shape(1, 0, 0, 0, 0) - rest, axis=-1)
    assert moved[152] > 1.2 and moved[[1, 4, 10, 33, 168, 263]].max() < 1e-3


def test_lids_close(figure):
    for eye, (upper, lower) in enumerate([(159, 145), (386, 374)]):
        gaps = []
        for openness in (0.0, 0.5, 1.0):
            eyes = OPEN_EYES.copy()
            eyes[eye] = openness
            v = figure.landmarks(REST, eyes)
            gaps.append(v[upper, 1] - v[lower, 1])
        assert abs(gaps[0]) < 0.02 and 0.3 < gaps[1] / gaps[2] < 0.7 and gaps[2] > 0.6  # cm


@pytest.mark.parametrize("seed", range(4))
def test_head_moves_smoothly_and_reaches_its_limits(seed):
    performance = perform(np.zeros((250, 5)), seed)
    turn = np.array([m.rotation for m in performance.head])
    yaw = np.arcsin(-turn[:, 2, 0])
    pitch, roll = np.arctan2(turn[:, 2, 1], turn[:, 2, 2]), np.arctan2(turn[:, 1, 0], turn[:, 0, 0])
    for angle, limit in zip((yaw, pitch, roll), LIMITS, strict=True):
        np.testing.assert_allclose([angle.min(), angle.max()], [-limit, limit], rtol=1e-6)
        assert np.abs(np.diff(angle)).max() < np.radians(3.0)  # per frame
    # The shoulders also move independently: a linear function of the head's angles does not explain it.
    torso = np.array([m.translation for m in performance.torso])
    explained = np.column_stack([yaw, pitch, roll, np.ones(250)])
    left = torso - explained @ np.linalg.lstsq(explained, torso, rcond=None)[0]
    assert left[:, 0].std() > 0.1  # cm


@pytest.mark.parametrize("seed", range(8))
def test_blinks_are_frequent_and_complete(seed):
    openness = blinks(np.arange(250) / 25, np.random.default_rng(seed))[:, 0]
    shut = openness < 0.1
    assert (np.diff(shut.astype(int)) == 1).sum() >= 4
    assert shut[:50].any()
    assert np.median(openness) > 0.85


def test_video_and_ground_truth_agree(film, figure):
    info = probe(film / "subject.mp4")
    assert (info.width, info.height, info.fps) == (SIZE, SIZE, FPS) and info.has_audio
    frames = np.stack(list(read_frames(film / "subject.mp4"))).astype(float)
    count = len(frames)
    assert count == SECONDS * FPS
    assert abs(len(read_audio(film / "driving.wav")) / SAMPLE_RATE - 1.0) < 0.04
    truth = film / "truth"
    assert np.load(truth / "mouth.npy").shape == (count,) and np.load(truth / "driving_mouth.npy").shape == (25,)
    assert np.load(truth / "eyes.npy").shape == (count, 2)

    index, matrices = poses(film)
    assert [frame["img_id"] for frame in index["frames"]] == list(range(count))
    products = matrices[:, :3, :3] @ matrices[:, :3, :3].transpose(0, 2, 1)
    np.testing.assert_allclose(products, np.broadcast_to(np.eye(3), products.shape), atol=1e-9)
    # A point that no expression moves (the bridge of the nose) projects to its landmark.
    to_camera = np.linalg.inv(matrices)
    depth = -to_camera[:, 2, 3].mean()
    assert 0.7 < depth < 0.9
    unit = depth / -HEAD_AT_REST[2]
    bridge = np.append(figure.landmarks(REST, OPEN_EYES)[168] * unit, 1.0)
    x, y, z, _ = (to_camera @ bridge).T
    landmarks = np.load(truth / "landmarks.npy")
    expected = np.stack([index["cx"] - index["focal_len"] * x / z, index["cy"] + index["focal_len"] * y / z], -1)
    # `unit` comes from the mean depth, which the head's motion shifts by about one percent.
    np.testing.assert_allclose(landmarks[:, 168], expected, atol=0.5)

    background = cv2.imread(str(truth / "background.png"))[..., ::-1].astype(float)
    heads, torsos = (
        np.stack([cv2.imread(str(truth / f"alpha/{k}_{part}.png"), cv2.IMREAD_UNCHANGED) for k in range(count)])
        for part in ("head", "torso")
    )
    assert heads.shape == torsos.shape == (count, SIZE, SIZE) and heads.dtype == np.uint8
    assert (heads.astype(int) + torsos).max() <= 256  # each is rounded separately
    assert 0.15 < (heads > 127).mean() < 0.4 and 0.1 < (torsos > 127).mean() < 0.4
    assert ((heads > 20) & (heads < 235)).any()  # soft borders
    # Away from the subject the video shows the background, up to compression artefacts.
    near = np.stack([cv2.dilate(np.maximum(h, t), np.ones((9, 9))) for h, t in zip(heads, torsos, strict=True)])
    assert np.abs(frames - background)[near == 0].mean() < 6
    assert np.abs(frames - background)[heads > 250].mean() > 40


def test_a_complete_subject_is_kept_and_others_are_made_again(film, tmp_path):
    first = (film / "subject.mp4").stat().st_mtime_ns
    make_subject(film, size=SIZE, seconds=SECONDS, driving_seconds=1.0, seed=3)
    assert (film / "subject.mp4").stat().st_mtime_ns == first
    make_subject(tmp_path, size=48, seconds=0.4, driving_seconds=0.4)
    (tmp_path / "truth" / "alpha" / "1_head.png").unlink()
    (tmp_path / "truth" / "complete.json").unlink()  # as if it had been interrupted
    make_subject(tmp_path, size=48, seconds=0.4, driving_seconds=0.4)
    assert (tmp_path / "truth" / "alpha" / "1_head.png").exists()
    make_subject(tmp_path, size=64, seconds=0.4, driving_seconds=0.4)
    assert probe(tmp_path / "subject.mp4").width == 64
    assert len(list((tmp_path / "truth" / "alpha").iterdir())) == 2 * 10


def test_landmark_network_tracks_the_video(film):
    frames = list(read_frames(film / "subject.mp4"))
    found = detect_video(frames, len(frames))
    assert found.valid.all()
    error = np.linalg.norm(found.points[:, :468, :2] - np.load(film / "truth" / "landmarks.npy"), axis=-1)
    assert error.mean() < 1.6  # px of 96; the network places the border of the forehead differently
    mouth, eyes = np.load(film / "truth" / "mouth.npy"), np.load(film / "truth" / "eyes.npy")
    # At 96 px the mouth is 7 px high; at 256 px the correlations are 0.97 and 0.95.
    assert np.corrcoef(mouth_openness(found.points), mouth)[0, 1] > 0.8
    assert np.corrcoef(eye_openness(found.points).mean(-1), eyes.mean(-1))[0, 1] > 0.85


@pytest.mark.parametrize("eyes", [0.0, 1.0])
@pytest.mark.parametrize(
    ("degrees", "articulation"),
    [
        ((15, 12, 12), (1, 0, 0, 0, 0)),
        ((-15, -12, 12), (0.2, -1, 1, 0, 0)),
        ((15, -12, -12), (0.2, 1, 0, 0, 0)),
        ((-15, 12, -12), (0.1, 0, 0, 1, 0)),
        ((0, 0, 0), (0.1, 0, 0, 0, 1)),
    ],
)
def test_landmark_network_finds_the_face_in_every_pose(figure, landmarker, degrees, articulation, eyes):
    picture, _ = draw(figure, degrees, articulation, (eyes, eyes))
    face = landmarker(picture)
    assert face is not None and face.score > 0.99


def test_parsing_network_segments_the_parts(figure):
    params = face_parsing.load(weights.path("face_parsing"))
    drawn = [draw(figure), draw(figure, (12, -8, 6), (0.6, 0, 0, 0, 0))]
    large = np.stack([cv2.resize(picture, (512, 512)) for picture, _ in drawn])
    labels = np.asarray(face_parsing.parse(params, jnp.asarray(large)))
    torso = [14, 15, 16]  # neck, necklace, cloth
    for label, (_, cover) in zip(labels, drawn, strict=True):
        label = cv2.resize(label, (256, 256), interpolation=cv2.INTER_NEAREST)
        found = (label > 0) & ~np.isin(label, torso), np.isin(label, torso)
        for mask, alpha, least in zip(found, cover, (0.93, 0.9), strict=True):
            true = alpha > 127
            assert (mask & true).sum() / (mask | true).sum() >= least
        assert (label == 18).sum() < 0.1 * (label == 17).sum()  # hair, not a hat
