"""The built-in subject, small and prepared from its own truth, and a head of the fast family that was trained on it.

Preparation takes longer than such a training, and has tests of its own.
"""

import pathlib

import cv2
import numpy as np
from ml_collections import ConfigDict

from adnerf_jax.common.files import write_json
from adnerf_jax.common.timing import FPS, SAMPLE_RATE
from adnerf_jax.configuration import base as common
from adnerf_jax.data import schema
from adnerf_jax.data.datasets import Dataset, load_frames
from adnerf_jax.face.landmarks import Landmarks, eye_openness, face_rect, to_ibug68
from adnerf_jax.face.parsing import BACKGROUND, HEAD, TORSO, write_parts
from adnerf_jax.face.tracking import UNITS_PER_CM
from adnerf_jax.media.audio import write_wav
from adnerf_jax.media.image import write_image
from adnerf_jax.preprocessing.synthetic_subject import film
from adnerf_jax.preprocessing.synthetic_subject.voice import speak
from adnerf_jax.pretrained import weights
from adnerf_jax.pretrained.face_landmarker import LANDMARKS, FaceLandmarker
from adnerf_jax.speech.features import get_encoder, speech_windows
from adnerf_jax.speech.lips import fit_ridge

SIZE, SEED = 80, 0
TRAIN, HELD_OUT = 150, 50  # frames
_MOUTH = np.array([0.0, -4.5, 5.0])  # cm, between the lips in the head's frame
_CROP = 16, 12  # width and height of a mouth's picture, pixels


def make_dataset(folder: pathlib.Path) -> pathlib.Path:
    """Writes the dataset, whose poses, silhouettes, landmarks and mouth are known: `mouth.npy` [N] as the truth."""
    count = TRAIN + HELD_OUT
    mesh = FaceLandmarker(weights.path("face_landmarker"))
    scene = film.Scene(film.Figure(mesh.canonical, mesh.triangles), SIZE)
    scene._oversampling = 2  # twice as fast as the four that a small picture has otherwise
    speech = speak(count / FPS, SEED)
    show = film.perform(speech.articulation, SEED)
    for name in ("gt", "parsing", "alpha", "ori_imgs"):
        (folder / name).mkdir(parents=True)
    write_image(folder / schema.LOSSLESS_BACKGROUND, scene.background)
    points = np.zeros((count, LANDMARKS, 3), np.float32)
    frames = []
    for k in range(count):
        head = show.head[k](scene.figure.landmarks(show.articulation[k], show.eyes[k]))
        scale = film.FOCAL * SIZE / -head[:, 2:].mean()
        points[k, : len(head)] = np.column_stack([scene.project(head), -head[:, 2] * scale])
        picture, cover = scene.draw(show.head[k], show.torso[k], show.articulation[k], show.eyes[k])
        parts = np.where(cover.max(0) == 0, BACKGROUND, np.where(cover[0] >= cover[1], HEAD, TORSO)).astype(np.uint8)
        write_image(folder / schema.lossless_image(k), picture)
        write_image(folder / schema.alpha_image(k), np.minimum(cover.sum(0, dtype=int), 255).astype(np.uint8))
        write_parts(folder / schema.parsing_image(k), parts)
        outline = to_ibug68(points[k])
        frames.append(
            {
                "img_id": k,
                "aud_id": k,
                "transform_matrix": film.camera_to_head(show.head[k]).tolist(),
                "face_rect": face_rect(outline, SIZE, SIZE).tolist(),
            }
        )
        np.savetxt(folder / schema.landmark_file(k), outline)
    camera = {"focal_len": film.FOCAL * SIZE, "cx": SIZE / 2, "cy": SIZE / 2}
    write_json(folder / schema.TRANSFORMS["train"], {**camera, "frames": frames[:TRAIN]})
    write_json(folder / schema.TRANSFORMS["val"], {**camera, "frames": frames[TRAIN:]})
    Landmarks(points, np.ones(count, bool), np.zeros((count, 52), np.float32)).save(folder / schema.LANDMARKS)
    np.save(folder / schema.EYES, eye_openness(points).astype(np.float32))
    np.save(folder / schema.AUDIO_WINDOWS, speech_windows(get_encoder("logmel"), speech.samples, count))
    write_wav(folder / schema.SOUND, speech.samples, SAMPLE_RATE)
    write_json(folder / schema.MANIFEST, {"speech": {"encoder": "logmel"}})
    np.save(folder / "mouth.npy", film._mouth_openings(scene.figure, speech.articulation))
    return folder


def config(data: pathlib.Path, seed: int = 0) -> ConfigDict:
    """The configuration of the head: as large as the mouth of such a small picture needs, and without the audio code,
    whose networks would take most of the compilation."""
    small = common.get_config("head", "fast,smoke")
    with small.unlocked():
        small.data, small.seed = str(data), seed
        small.model.head.update(codes=("lips", "eyes"), width=32, geometry=7)
        small.model.head.update(proposal_resolution=16, coarse_samples=16, fine_samples=8)
        small.model.head.grid.update(levels=4, table_size=2**12, coarsest=8, finest=64)
        small.model.head.shape_grid.update(levels=3, table_size=2**11, coarsest=8, finest=48)
        small.train.update(steps=250, rays=512, audio_components=16, validate_every=250, checkpoint_every=250)
        small.optim.learning_rate = 2e-3
        small.optim.grid_multiple = 20.0
        small.eval.update(lpips="", faces=False, report=False)
    return small


class MouthReader:
    """Reads how far a mouth is open from its picture, by a regression on the training frames and their known openings.

    Args:
      dataset: the dataset of `make_dataset`.
    """

    def __init__(self, dataset: Dataset):
        self._centres, self._half = _mouths(dataset), round(0.11 * SIZE)
        frames = load_frames(dataset, dataset.train)
        inputs = np.stack(
            [self._crop(image, k) for image, k in zip(frames.images / 255.0, frames.split.aud_id, strict=True)]
        )
        self.truth = np.load(dataset.path / "mouth.npy")
        self._mean = inputs.mean(0)
        weights_, bias = fit_ridge(inputs - self._mean, self.truth[frames.split.aud_id][:, None].astype(float))
        self._weights, self._bias = weights_[:, 0], bias[0]

    def __call__(self, image: np.ndarray, frame: int) -> float:
        """The opening in a picture, float [H, W, 3] in [0, 1], of the head in the pose of a frame."""
        return float((self._crop(image, frame) - self._mean) @ self._weights + self._bias)

    def _crop(self, image: np.ndarray, frame: int) -> np.ndarray:
        x, y = self._centres[frame]
        part = np.asarray(image, np.float32)[y - self._half : y + self._half, x - self._half : x + self._half]
        return cv2.resize(part, _CROP, interpolation=cv2.INTER_AREA).astype(np.float64).ravel()


def _mouths(dataset: Dataset) -> np.ndarray:
    """The middle of the closed mouth in each frame, int [N, 2] px, by the pose alone: that of the lips would tell their
    opening."""
    camera, centres = dataset.camera, np.zeros((len(dataset.windows), 2), int)
    for split in (dataset.train, dataset.val):
        for transform, frame in zip(split.transforms, split.aud_id, strict=True):
            x, y, z = np.linalg.inv(transform.astype(np.float64))[:3] @ [*(_MOUTH * UNITS_PER_CM), 1]
            centres[frame] = round(camera.cx - camera.focal * x / z), round(camera.cy + camera.focal * y / z)
    return centres
