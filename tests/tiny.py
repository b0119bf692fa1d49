"""A dataset and configurations small enough that training takes seconds: shared by the tests of the core rooms."""

import json
import pathlib

import cv2
import jax
import numpy as np
from ml_collections import ConfigDict

from adnerf_jax.common.files import write_json
from adnerf_jax.common.timing import NEIGHBOURS, WINDOW
from adnerf_jax.common.types import Camera, Conditions, Rays, Scene
from adnerf_jax.configuration import base as common
from adnerf_jax.data import schema
from adnerf_jax.data.datasets import SUBJECTS, Dataset, dataset_of, load_frames
from adnerf_jax.data.scenes import make_scene
from adnerf_jax.face.landmarks import Landmarks
from adnerf_jax.face.parsing import BACKGROUND, HEAD, NECK, TORSO, write_parts
from adnerf_jax.models.codes.registry import make_codes
from adnerf_jax.training import sharding
from adnerf_jax.training.batch_loader import BatchLoader
from adnerf_jax.training.batches import RaySampler
from adnerf_jax.training.optim import make_optimizer
from adnerf_jax.training.stages import example_batch, make_stage
from adnerf_jax.training.state import TrainState
from adnerf_jax.training.update import make_update

SIZE = 32  # pixels
DEPTH = 0.84  # depth of the head, dataset units
CLIP = 13  # frames of the clip
DROPPED = 5  # the frame where no head was found: it has speech windows, but is in neither split
TRAIN, VAL = 10, 2


def pose(yaw: float, pitch: float, shift: tuple[float, float] = (0.0, 0.0)) -> np.ndarray:
    """Camera-to-head [4, 4] of a head turned by yaw and pitch (radians), `DEPTH` away."""
    cy, sy, cp, sp = np.cos(yaw), np.sin(yaw), np.cos(pitch), np.sin(pitch)
    transform = np.eye(4)
    transform[:3, :3] = np.array([[cy, 0, sy], [0, 1, 0], [-sy, 0, cy]]) @ np.array(
        [[1, 0, 0], [0, cp, -sp], [0, sp, cp]]
    )
    transform[:3, 3] = transform[:3, :3] @ [*shift, DEPTH]
    return transform


def part_map(frame: int) -> np.ndarray:
    """A disk for a head that moves a little, a neck below it, shoulders below that."""
    rows, columns = np.mgrid[:SIZE, :SIZE]
    centre = 16 + np.sin(frame)
    parts = np.full((SIZE, SIZE), BACKGROUND, np.uint8)
    parts[((rows - 36) ** 2 / 14**2 + (columns - 16) ** 2 / 14**2) < 1] = TORSO
    parts[(abs(columns - 16) < 4) & (rows > 14) & (rows < 25)] = NECK
    parts[(rows - 12) ** 2 + (columns - centre) ** 2 < 8**2] = HEAD
    return parts


def picture(frame: int, background: np.ndarray, parts: np.ndarray) -> np.ndarray:
    """The person over the background, uint8 [H, W, 3]."""
    image = background.copy()
    image[parts == HEAD] = (200, 150, 120 + 2 * frame)
    image[parts == NECK] = (170, 120, 100)
    image[parts == TORSO] = (40, 60, 160)
    return image


def make_dataset(folder: pathlib.Path, channels: int = 8, speech: str | None = None) -> pathlib.Path:
    """Writes every file of `adnerf_jax.data.schema`.

    Args:
      folder: where they are written.
      channels: channels of the speech windows, which are random numbers.
      speech: name of the encoder in the manifest; None: DeepSpeech, as in a dataset without a manifest.
    """
    rng = np.random.default_rng(0)
    for name in ("ori_imgs", "head_imgs", "com_imgs", "gt", "parsing"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    background = np.zeros((SIZE, SIZE, 3), np.uint8)
    background[..., 0], background[..., 1] = np.mgrid[:SIZE, :SIZE] * 4 + 60
    background[..., 2] = 90
    _write(folder / schema.BACKGROUND, background)
    _write(folder / schema.LOSSLESS_BACKGROUND, background)
    frames = []
    for i in range(CLIP):
        if i == DROPPED:
            continue
        parts = part_map(i)
        image = picture(i, background, parts)
        _write(folder / schema.lossless_image(i), image)
        _write(folder / schema.composite_image(i), image)
        _write(folder / schema.original_image(i), image)
        _write(folder / schema.head_image(i), np.where((parts == HEAD)[..., None], image, background))
        write_parts(folder / schema.parsing_image(i), parts)
        np.savetxt(folder / schema.landmark_file(i), 12 + 8 * rng.random((68, 2)))
        shift = (0.01 * np.sin(i), 0.005 * np.cos(i))
        frames.append(
            {
                "img_id": i,
                "aud_id": i,
                "transform_matrix": pose(0.2 * np.sin(0.7 * i), 0.1 * np.cos(0.9 * i), shift).tolist(),
                "face_rect": [9, 6, 14, 12],
            }
        )
    camera = {"focal_len": 2.67 * SIZE, "cx": SIZE / 2, "cy": SIZE / 2}
    write_json(folder / schema.TRANSFORMS["train"], {**camera, "frames": frames[:TRAIN]})
    write_json(folder / schema.TRANSFORMS["val"], {**camera, "frames": frames[TRAIN:]})
    np.save(folder / schema.AUDIO_WINDOWS, rng.normal(size=(CLIP, WINDOW, channels)).astype(np.float32))
    np.save(folder / schema.EYES, rng.uniform(0.1, 0.3, (CLIP, 2)).astype(np.float32))
    if speech is not None:
        write_json(folder / schema.MANIFEST, {"speech": {"encoder": speech}})
    return folder


def add_landmarks(folder: pathlib.Path) -> pathlib.Path:
    """Writes the landmarks and blendshapes of a dataset's clip, random numbers."""
    rng = np.random.default_rng(6)
    points, blendshapes = rng.normal(16, 4, (CLIP, 478, 3)), rng.random((CLIP, 52))
    Landmarks(points.astype(np.float32), np.ones(CLIP, bool), blendshapes.astype(np.float32)).save(
        folder / schema.LANDMARKS
    )
    return folder


def config(stage: str, data: pathlib.Path | None = None, variants: str = "fast,smoke", **train) -> ConfigDict:
    """A configuration with variants, made smaller still; `train` are fields of `config.train`."""
    small = common.get_config(stage, variants)
    with small.unlocked():
        small.data = None if data is None else str(data)
        if small.family == "fast":
            _shrink_grids(small)
        else:
            _shrink_volumes(small)
        small.train.update(steps=6, rays=128, audio_components=6, log_every=1, validate_every=100, checkpoint_every=100)
        small.train.update(train)
        small.optim.update(learning_rate=2e-3, decay_steps=300)
        small.render.chunk = 256
        small.eval.update(lpips="", faces=False)
    return small


def _shrink_grids(small: ConfigDict) -> None:
    grid = dict(levels=3, table_size=2**9, coarsest=4, finest=16)
    small.model.head.grid.update(grid)
    small.model.head.shape_grid.update(grid)
    small.model.head.update(width=16, geometry=7, proposal_resolution=8, coarse_samples=8, fine_samples=6)
    if "torso" in small.model:
        small.model.torso.grid.update(grid)
        small.model.torso.update(width=16, deformation_width=8)
    small.train.frames_per_step = 4


def _shrink_volumes(small: ConfigDict) -> None:
    small.size = None  # the small dataset's pictures are small enough
    for model in small.model.values():
        model.update(
            width=16, depth=3, skip=1, colour_width=8, colour_depth=2, position_levels=4, direction_levels=2,
            coarse_samples=8, fine_samples=6,
        )  # fmt: skip
    small.train.micro_batches = 1
    small.render.occupancy = 16


def camera() -> Camera:
    """The dataset's camera."""
    return Camera(2.67 * SIZE, SIZE / 2, SIZE / 2, height=SIZE, width=SIZE)


def scene(channels: int = 8, components: int = 6) -> Scene:
    """Plausible constants of a person."""
    rng = np.random.default_rng(3)
    one = np.ones
    codes = {
        "audio": {
            "mean": rng.normal(size=channels).astype(np.float32),
            "basis": rng.normal(size=(channels, components)).astype(np.float32),
        },
        "lips": {
            "weights": rng.normal(size=(WINDOW, channels, 3)).astype(np.float32) / 16,
            "bias": 0.1 * one(3, np.float32),
        },
        "expression": {
            "weights": rng.normal(size=(WINDOW, channels, 52)).astype(np.float32) / 16,
            "bias": 0.1 * one(52, np.float32),
            "mean": 0.2 * one(52, np.float32),
            "scale": 0.3 * one(52, np.float32),
        },
        "eyes": {"mean": np.array([0.2, 0.25], np.float32), "scale": np.array([0.05, 0.1], np.float32)},
    }
    return Scene(
        near=np.float32(DEPTH - 0.2),
        far=np.float32(DEPTH + 0.4),
        box=np.array([[-0.12, -0.15, -0.2], [0.13, 0.14, 0.15]], np.float32),
        pose_mean=0.1 * one(6, np.float32),
        pose_scale=0.5 * one(6, np.float32),
        torso_top=np.float32(0.5),
        torso_camera=pose(0.1, 0.05).astype(np.float32),
        codes=codes,
    )


def conditions(frames: int, channels: int = 8) -> Conditions:
    """Random inputs of the condition codes."""
    rng = np.random.default_rng(4)
    return Conditions(
        audio=rng.normal(size=(frames, NEIGHBOURS, WINDOW, channels)).astype(np.float32),
        tracks={"eyes": rng.uniform(0.1, 0.3, (frames, 2)).astype(np.float32)},
    )


def random_rays(frames: int, count: int, seed: int = 5) -> Rays:
    """Rays from around `DEPTH` before the head to places around it; some miss it."""
    rng = np.random.default_rng(seed)
    origins = rng.normal(size=(frames, count, 3)) * 0.05 + [0, 0, DEPTH]
    targets = rng.uniform(-0.25, 0.25, (frames, count, 3))
    directions = targets - origins
    directions /= np.abs(directions[..., 2:])
    return Rays(origins.astype(np.float32), directions.astype(np.float32))


def first_state(settings: ConfigDict) -> TrainState:
    """The state of the head stage before its first step, as numpy arrays."""
    dataset = dataset_of(settings)
    stage = make_stage(settings, dataset.camera)
    example = example_batch(1, settings.train.frames_per_step, dataset.windows.shape[1:])
    constants = make_scene(
        dataset,
        load_frames(dataset, dataset.train),
        make_codes(settings.model.head).members,
        settings.train.audio_components,
    )

    def create(constants: Scene) -> TrainState:
        params = stage.init(jax.random.key(0), example, constants)
        return TrainState.create(params, make_optimizer(settings.optim, settings.train.attention_from), {}, constants)

    return jax.device_get(jax.jit(create)(constants))


def losses_of_steps(
    settings: ConfigDict, state: TrainState, devices: list[jax.Device], steps: int
) -> tuple[list[float], TrainState]:
    """Losses of steps of the head stage on the given devices, and the state after them."""
    mesh = sharding.make_mesh(devices)
    dataset = dataset_of(settings)
    loader = BatchLoader(ray_sampler(settings, dataset), mesh)
    tx = make_optimizer(settings.optim, settings.train.attention_from)
    update = make_update(make_stage(settings, dataset.camera), tx, settings.seed, settings.train.micro_batches)
    state = jax.device_put(state, sharding.replicated(mesh))
    values = []
    for step in range(steps):
        state, metrics = update(state, loader.batch(step))
        values.append(float(metrics["loss"]))
    return values, state


def ray_sampler(settings: ConfigDict, dataset: Dataset, **changes) -> RaySampler:
    """The sampler that training with these settings would use."""
    arguments = dict(
        frames=load_frames(dataset, dataset.train),
        frames_per_step=settings.train.frames_per_step,
        rays_per_frame=settings.train.rays // settings.train.frames_per_step,
        regions=dict(settings.train.regions),
        random_background=settings.train.random_background,
        subject=SUBJECTS[settings.subject],
        seed=settings.seed,
    )
    return RaySampler(dataset, **(arguments | changes))


def lines(path: pathlib.Path) -> list[dict]:
    """The objects of a JSON-lines file."""
    return [json.loads(line) for line in path.read_text().splitlines()]


def _write(path: pathlib.Path, rgb: np.ndarray) -> None:
    cv2.imwrite(str(path), np.ascontiguousarray(rgb[..., ::-1]))
