"""The built-in subject: a synthetic speaking person, rendered together with ground truth that real videos lack.

`make_subject` writes a portrait video and a driving sound, which are prepared like any user's video, and the ground
truth in `truth/`. That folder is for tests and measurements only; preparation and training must not read it.
"""

import concurrent.futures
import dataclasses
import pathlib
import shutil
from collections.abc import Iterator

import cv2
import numpy as np

from adnerf_jax.common import files, progress
from adnerf_jax.common.own_folders import check_no_links
from adnerf_jax.common.timing import FPS, SAMPLE_RATE
from adnerf_jax.face.tracking import UNITS_PER_CM
from adnerf_jax.media.audio import write_wav
from adnerf_jax.media.video import VideoWriter
from adnerf_jax.preprocessing.synthetic_subject import paint
from adnerf_jax.preprocessing.synthetic_subject.face import mouth_opening
from adnerf_jax.preprocessing.synthetic_subject.figure import Figure, Motion
from adnerf_jax.preprocessing.synthetic_subject.raster import Normals, rasterise
from adnerf_jax.preprocessing.synthetic_subject.voice import speak
from adnerf_jax.pretrained import weights
from adnerf_jax.pretrained.face_landmarker import FaceLandmarker

FOCAL = 8 / 3  # focal length as a share of the picture's width: the default of the preparation
HEAD_AT_REST = (0.0, 0.6, -92.0)  # cm, origin of the head at rest in the camera's frame
NECK_PIVOT = np.array([0.0, -7.5, -5.5])  # cm, in the head's frame
LIMITS = np.radians([15.0, 12.0, 12.0])  # limits of yaw, pitch and roll
DRIVING_SEED_SHIFT = 1000  # added to the seed, so that the driving speech differs from the video's
# Written last, with the arguments: marks a complete subject. VERSION is increased when its contents change.
MARKER, VERSION = "complete.json", 1

KEY_LIGHT = np.array([-0.45, 0.55, 0.70]) / np.linalg.norm([-0.45, 0.55, 0.70])
HALFWAY = (KEY_LIGHT + [0, 0, 1]) / np.linalg.norm(KEY_LIGHT + [0, 0, 1])


def rotation(yaw: float, pitch: float, roll: float) -> np.ndarray:
    """The rotation matrix `[3, 3]` roll · yaw · pitch, about z, y and x; angles in radians."""
    (cy, sy), (cp, sp), (cr, sr) = ((np.cos(a), np.sin(a)) for a in (yaw, pitch, roll))
    about_y = np.array([[cy, 0, sy], [0, 1, 0], [-sy, 0, cy]])
    about_x = np.array([[1, 0, 0], [0, cp, -sp], [0, sp, cp]])
    about_z = np.array([[cr, -sr, 0], [sr, cr, 0], [0, 0, 1]])
    return about_z @ about_y @ about_x


def head_translation(turn: np.ndarray, shift: np.ndarray) -> np.ndarray:
    """Head-to-camera translation [3] cm of a head rotated by `turn` [3, 3] about the neck, then shifted by `shift`."""
    return NECK_PIVOT - turn @ NECK_PIVOT + HEAD_AT_REST + shift


class Scene:
    """The figure in front of a wall, with a fixed camera and a fixed light."""

    def __init__(self, figure: Figure, size: int, seed: int = 0):
        """Sets up the scene.

        Args:
          figure: the person.
          size: side of the square picture in pixels.
          seed: seed of the wall's texture.
        """
        self.figure, self.size = figure, size
        self.background = np.round(paint.wall(size, np.random.default_rng([seed, 1]))).astype(np.uint8)
        self._oversampling = int(np.clip(np.ceil(512 / size), 2, 4))
        self._normals = Normals(figure.triangles, len(figure.coordinates))

    def project(self, points: np.ndarray) -> np.ndarray:
        """Projects points `[..., 3]` cm in the camera's frame to pixels `[..., 2]`, y down."""
        scale = FOCAL * self.size / -points[..., 2:]
        return points[..., :2] * scale * [1, -1] + self.size / 2

    def draw(
        self, head: Motion, torso: Motion, articulation: np.ndarray, eyes: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        """Renders one picture.

        Args:
          head, torso: their poses.
          articulation, eyes: arguments of `face.Face.pose`.

        Returns:
          `[S, S, 3]` uint8 RGB, and `[2, S, S]` uint8 coverage (0..255) of the head, and of neck and torso.
        """
        figure, side = self.figure, self.size * self._oversampling
        vertices = figure.vertices(head, torso, articulation, eyes)
        points = np.column_stack([self.project(vertices) * self._oversampling, 1.0 / -vertices[:, 2]])
        seen = rasterise(points, figure.triangles, side, side)
        normals = self._normals(vertices)
        facing = normals @ KEY_LIGHT
        light = 0.60 + 0.40 * np.clip(0.25 + 0.75 * facing, 0, 1) + 0.10 * normals[:, 1] + 0.08 * normals[:, 2]
        highlight = 255.0 * figure.gloss * np.clip(normals @ HALFWAY, 0, 1) ** 24
        attributes = np.column_stack([figure.coordinates, light, highlight]).astype(np.float32)

        corners = attributes[figure.triangles][seen.triangle]
        found = np.einsum("pk,pkc->pc", seen.weights, corners)
        # OpenCV limits the size of a map's sides, so the list of pixels is folded into rows.
        width = 1024
        padded: np.ndarray = np.pad(found[:, :2], ((0, -len(found) % width), (0, 0))).reshape(-1, width, 2)
        # OpenCV takes None as the second map of a map of pairs; its stubs do not.
        sampled = cv2.remap(figure.texture, padded, None, cv2.INTER_LINEAR)  # type: ignore[call-overload]
        colour = sampled.reshape(-1, 3)[: len(found)]
        layers = np.zeros((side * side, 5), np.float32)
        layers[seen.pixels, :3] = np.minimum(colour * found[:, 2:3] + found[:, 3:4], 255.0)
        is_torso = figure.is_torso[seen.triangle]
        layers[seen.pixels, 3] = ~is_torso
        layers[seen.pixels, 4] = is_torso
        resized = cv2.resize(layers.reshape(side, side, 5), (self.size, self.size), interpolation=cv2.INTER_AREA)
        cover = resized[..., 3:]
        picture = resized[..., :3] + (1.0 - cover.sum(-1, keepdims=True)) * self.background
        return np.round(picture).astype(np.uint8), np.round(255.0 * cover).astype(np.uint8).transpose(2, 0, 1)


@dataclasses.dataclass(frozen=True)
class Performance:
    """The subject's motion, one row per frame.

    Attributes:
      head, torso: N poses each.
      articulation: `[N, 5]`, as `face.Face.pose` takes it.
      eyes: `[N, 2]` openness 0..1 of the right and the left eye.
    """

    head: list[Motion]
    torso: list[Motion]
    articulation: np.ndarray
    eyes: np.ndarray


def wander(times: np.ndarray, rng: np.random.Generator, pace: float = 1.0) -> np.ndarray:
    """A smooth pseudo-random path `[N]` at `times` [N] in seconds; it reaches 1 and -1 within the first ten seconds."""
    frequencies = pace * np.array([0.11, 0.19, 0.31, 0.45])
    amplitudes, phases = np.array([1.0, 0.9, 0.6, 0.25]), rng.uniform(0, 2 * np.pi, 4)

    def path(t: np.ndarray) -> np.ndarray:
        return np.sin(2 * np.pi * frequencies * t[:, None] + phases) @ amplitudes

    first = path(np.arange(0.0, 10.0, 1.0 / FPS))
    return np.clip(2.0 * (path(times) - first.min()) / np.ptp(first) - 1.0, -1.0, 1.0)


def blinks(times: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Openness `[N, 2]` of both eyes: small slow variations, and blinks of 0.24 s every 1.3 to 2.3 s."""
    openness = 0.94 + 0.06 * wander(times, rng, pace=1.5)
    closing = rng.uniform(0.4, 1.0)
    while closing < times[-1]:
        # Closed for just over a frame, so that a frame shows every blink closed.
        since = times - closing
        openness *= 1.0 - np.interp(since, [0.0, 0.08, 0.125, 0.24], [0.0, 1.0, 1.0, 0.0])
        closing += rng.uniform(1.3, 2.3)
    return np.stack([openness, openness], -1)


def perform(articulation: np.ndarray, seed: int) -> Performance:
    """Adds motion of head, shoulders and lids to the mouth's.

    Args:
      articulation: `[N, 5]`, of the speech.
      seed: seed of the motion.
    """
    rng = np.random.default_rng([seed, 2])
    times = np.arange(len(articulation)) / FPS
    angles = np.stack([wander(times, rng) for _ in LIMITS], -1) * LIMITS
    shift = np.stack([wander(times, rng, 0.8) for _ in range(3)], -1) * [0.5, 0.35, 0.6]
    sway = np.stack([wander(times, rng, 0.7) for _ in range(3)], -1) * [0.9, 0.4, 0.5]
    lean = np.stack([wander(times, rng, 0.7) for _ in range(3)], -1) * np.radians([3.0, 1.0, 1.8])
    head, torso = [], []
    for k in range(len(times)):
        turn = rotation(*angles[k])
        head.append(Motion(turn, head_translation(turn, shift[k] + 0.7 * sway[k])))
        # The shoulders follow the head a little and otherwise move independently.
        below = rotation(*(lean[k] + angles[k] * [0.15, 0.05, 0.12]))
        chest = np.array([0.0, -25.0, -6.0])
        torso.append(Motion(below, chest - below @ chest + HEAD_AT_REST + sway[k]))
    return Performance(head, torso, articulation, blinks(times, rng))


def camera_to_head(head: Motion) -> np.ndarray:
    """Camera-to-head matrix `[4, 4]` in the dataset's units: the inverse of the head's pose."""
    matrix = np.eye(4)
    matrix[:3, :3] = head.rotation.T
    matrix[:3, 3] = -head.rotation.T @ head.translation * UNITS_PER_CM
    return matrix


def make_subject(
    out: pathlib.Path, size: int = 256, seconds: float = 10.0, driving_seconds: float = 4.0, seed: int = 0
) -> None:
    """Renders the built-in subject; does nothing if `out` already holds a complete one with the same arguments.

    Writes under `out`: `subject.mp4` (25 fps, with sound), `driving.wav` (16 kHz, different speech), and in `truth/`:

    - `poses.json`: `focal_len, cx, cy, frames[img_id, transform_matrix]`, camera-to-head in the dataset's units;
    - `mouth.npy` `[N]`, `driving_mouth.npy` `[M]`: inner lip gap divided by the distance of the outer eye corners;
    - `eyes.npy` `[N, 2]`: openness 0..1 of the right and the left eye;
    - `landmarks.npy` `[N, 468, 2]`: in pixels;
    - `alpha/<i>_head.png`, `alpha/<i>_torso.png`: 8-bit coverage, the neck counted as torso; `background.png`.

    Args:
      out: folder, created if missing.
      size: side of the square picture in pixels.
      seconds, driving_seconds: length of the video and of the driving sound.
      seed: seed of the speech and of the motion.
    """
    out, truth = pathlib.Path(out), pathlib.Path(out) / "truth"
    arguments = {"version": VERSION, "size": size, "seconds": seconds, "driving_seconds": driving_seconds, "seed": seed}
    marker = truth / MARKER
    if marker.exists() and files.read_json(marker, "the built-in subject's record") == arguments:
        return
    check_no_links(truth)
    shutil.rmtree(truth, ignore_errors=True)
    (truth / "alpha").mkdir(parents=True)

    mesh = FaceLandmarker(weights.path("face_landmarker"))
    scene = Scene(Figure(mesh.canonical, mesh.triangles), size)
    speech = speak(seconds, seed, FPS)
    driving = speak(driving_seconds, seed + DRIVING_SEED_SHIFT, FPS)
    performance = perform(speech.articulation, seed)

    write_wav(out / "driving.wav", driving.samples, SAMPLE_RATE)
    _write_png(truth / "background.png", scene.background[..., ::-1])
    frames = [{"img_id": k, "transform_matrix": camera_to_head(m).tolist()} for k, m in enumerate(performance.head)]
    camera = {"focal_len": FOCAL * size, "cx": size / 2, "cy": size / 2}
    files.write_json(truth / "poses.json", {**camera, "frames": frames})
    np.save(truth / "eyes.npy", performance.eyes.astype(np.float32))
    np.save(truth / "driving_mouth.npy", _mouth_openings(scene.figure, driving.articulation))
    np.save(truth / "mouth.npy", _mouth_openings(scene.figure, speech.articulation))
    np.save(truth / "landmarks.npy", _landmarks(scene, performance))

    with VideoWriter(out / "subject.mp4", size, size, FPS, sound=(speech.samples, SAMPLE_RATE)) as video:
        pictures = _render(scene, performance, truth / "alpha")
        for picture in progress.track(pictures, "rendering the built-in subject", len(frames)):
            video.write(picture)
    files.write_json(marker, arguments)


def _mouth_openings(figure: Figure, articulation: np.ndarray) -> np.ndarray:
    open_eyes = np.ones(2)
    return np.array([mouth_opening(figure.landmarks(a, open_eyes)) for a in articulation], np.float32)


def _landmarks(scene: Scene, performance: Performance) -> np.ndarray:
    return np.stack(
        [
            scene.project(move(scene.figure.landmarks(mouth, eyes)))
            for move, mouth, eyes in zip(performance.head, performance.articulation, performance.eyes, strict=True)
        ]
    ).astype(np.float32)


def _render(scene: Scene, performance: Performance, alpha: pathlib.Path) -> Iterator[np.ndarray]:
    """The pictures in order, a few at a time in threads (NumPy and OpenCV release the GIL); writes the mattes."""

    def draw(k: int) -> np.ndarray:
        picture, cover = scene.draw(
            performance.head[k], performance.torso[k], performance.articulation[k], performance.eyes[k]
        )
        for name, mask in zip(("head", "torso"), cover, strict=True):
            _write_png(alpha / f"{k}_{name}.png", mask)
        return picture

    count = len(performance.head)
    with concurrent.futures.ThreadPoolExecutor() as pool:
        for start in range(0, count, 16):
            yield from pool.map(draw, range(start, min(start + 16, count)))


def _write_png(path: pathlib.Path, picture: np.ndarray) -> None:
    done, data = cv2.imencode(".png", picture, [cv2.IMWRITE_PNG_COMPRESSION, 1])
    assert done
    path.write_bytes(data.tobytes())
