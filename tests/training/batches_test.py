"""Rays drawn from a dataset: where they lie, and what they carry."""

import chex
import jax
import numpy as np
import pytest
import tiny

from adnerf_jax.common.types import Camera
from adnerf_jax.data.datasets import SUBJECTS, load_dataset, pack_frame
from adnerf_jax.face.parsing import HEAD, NECK, TORSO
from adnerf_jax.training import sharding
from adnerf_jax.training.batch_loader import _AT_ONCE, BatchLoader
from adnerf_jax.training.batches import _LEAST_REACH, _NEAR_WEIGHT, _around_rect, regions_of
from adnerf_jax.training.train import make_sampler


def test_regions_lie_inside_the_image_and_hold_their_parts(dataset, frames):
    regions = regions_of(dataset, frames)
    for rects in regions.values():
        assert rects.shape == (tiny.TRAIN, 4)
        assert (rects[:, :2] >= 0).all() and (rects[:, 2:] >= 1).all()
        assert (rects[:, :2] + rects[:, 2:] <= tiny.SIZE).all()
    np.testing.assert_array_equal(regions["face"], dataset.train.face_rect)
    for name, parts in (("head", [HEAD]), ("torso", [NECK, TORSO])):
        for row, (x, y, width, height) in enumerate(regions[name]):
            outside = np.isin(frames.parts[row], parts)
            outside[y : y + height, x : x + width] = False
            assert not outside.any()
    assert (regions["head"][:, 2:] < 20).all()


@pytest.mark.parametrize(
    ("variants", "stage", "region", "least"),
    [
        ("smoke", "head", "face", 0.95),  # published: 95 % in the face
        ("fast,smoke", "head", "head", 0.9),
        ("fast,smoke", "head", "mouth", 0.7),
        ("fast,smoke", "torso", "torso", 1.0),
    ],
)
def test_a_training_draws_its_rays_where_they_are_configured(
    dataset, frames, tiny_data, variants, stage, region, least
):
    settings = tiny.config(stage, tiny_data, variants, rays=1000)
    sampler = make_sampler(settings, dataset, frames)
    batch, inside = sampler.batch(0), []
    rects = regions_of(dataset, frames)
    for f, transform in enumerate(batch.transforms):
        (row,) = np.flatnonzero((frames.split.transforms == transform).all((1, 2)))
        x, y, width, height = rects[region][row]
        rows, columns = batch.pixels[f].T
        inside.append(((rows >= y) & (rows < y + height) & (columns >= x) & (columns < x + width)).mean())
    area = rects[region][:, 2:].prod(1).max() / tiny.SIZE**2
    assert np.mean(inside) >= least > area + 0.4  # evenly drawn, the share would be that of the area


def test_a_step_draws_the_same_rays_whenever_it_comes(dataset, tiny_data):
    settings = tiny.config("head", tiny_data)
    sampler, other = tiny.ray_sampler(settings, dataset), tiny.ray_sampler(settings, dataset)
    third = sampler.batch(3)
    sampler.batch(8)
    chex.assert_trees_all_equal(third, sampler.batch(3), other.batch(3))
    assert not np.array_equal(third.pixels, sampler.batch(4).pixels)
    assert not np.array_equal(third.pixels, tiny.ray_sampler(settings, dataset, seed=1).batch(3).pixels)


def test_batches_reach_the_devices_in_order_and_as_they_were_drawn(dataset, tiny_data):
    sampler = tiny.ray_sampler(tiny.config("head", tiny_data), dataset)
    loader = BatchLoader(sampler, sharding.make_mesh())
    steps = range(3, 6 + 2 * _AT_ONCE)
    batches = list(loader.batches(steps.start, steps.stop))
    chex.assert_trees_all_equal(jax.device_get(batches), [sampler.batch(step) for step in steps])
    assert list(loader.batches(6, 6)) == []


@pytest.mark.parametrize("random_background", [False, True])
@pytest.mark.parametrize("stage", ["head", "torso"])
def test_targets_are_the_pixels_of_their_frame(dataset, frames, stage, random_background):
    subject = {"head": [HEAD], "torso": [HEAD, NECK, TORSO]}[stage]
    sampler = tiny.ray_sampler(tiny.config(stage), dataset, random_background=random_background)
    batch = sampler.batch(0)
    assert batch.target.shape == (4, 32, 3) and batch.target.dtype == np.float32
    seen = []
    for f in range(4):
        (row,) = np.flatnonzero((frames.split.transforms == batch.transforms[f]).all((1, 2)))
        seen.append(row)
        np.testing.assert_array_equal(
            batch.conditions.tracks["eyes"][f], dataset.tracks["eyes"][frames.split.aud_id[row]]
        )
        rows, columns = batch.pixels[f].astype(int).T
        inside = np.isin(frames.parts[row, rows, columns], subject)
        colours = frames.images[row, rows, columns] / np.float32(255)
        np.testing.assert_allclose(batch.target[f][inside], colours[inside], rtol=1e-6)
        np.testing.assert_array_equal(batch.target[f][~inside], batch.background[f][~inside])
        behind = dataset.background[rows, columns] / np.float32(255)
        assert np.allclose(batch.background[f], behind) != random_background
    assert len(set(seen)) == 4


@pytest.mark.parametrize("random_background", [False, True])
def test_behind_the_silhouette_the_background_is_exchanged(dataset, frames, random_background):
    """Pixels made of a known person, share and background: over any other background the mixture must be theirs.

    No pixel shows the person alone, so that the person's colour can only be had from the mixture.
    """
    rng = np.random.default_rng(0)
    person = rng.random(frames.images.shape)
    alpha = rng.integers(0, 255, frames.parts.shape).astype(np.uint8)
    share = alpha[..., None] / 255
    mixed = np.round(255 * person * share + (1 - share) * dataset.background).astype(np.uint8)
    frames = frames.replace(packed=pack_frame(mixed, np.full_like(frames.parts, HEAD), alpha))
    sampler = tiny.ray_sampler(tiny.config("head"), dataset, frames=frames, random_background=random_background)
    batch = sampler.batch(0)
    for f in range(4):
        (row,) = np.flatnonzero((frames.split.transforms == batch.transforms[f]).all((1, 2)))
        rows, columns = batch.pixels[f].astype(int).T
        true = person[row, rows, columns] * share[row, rows, columns]
        true = true + (1 - share[row, rows, columns]) * batch.background[f]
        np.testing.assert_allclose(batch.target[f], true, atol=0.51 / 255)  # the mixture was rounded to a byte


def test_edges_hold_to_the_colour_of_the_person_beside_them(dataset, frames):
    """Shares estimated too large, as they are: most of the filmed background's light does not stay in the person."""
    rng = np.random.default_rng(0)
    alone = rng.random(frames.parts.shape) < 0.3
    alpha = np.where(alone, 255, rng.integers(1, 255, alone.shape)).astype(np.uint8)
    # Another colour in every place: each frame, row and column must be its own.
    place = np.stack(np.meshgrid(*(np.linspace(0, 1, n) for n in alone.shape), indexing="ij"), axis=-1)
    true = np.where(alone, 1.0, 0.7 * alpha / 255)[..., None]
    mixed = np.round(255 * place * true + 255 * (1 - true) * (dataset.background / 255)).astype(np.uint8)
    frames = frames.replace(packed=pack_frame(mixed, np.full_like(frames.parts, HEAD), alpha))
    batch = tiny.ray_sampler(tiny.config("head"), dataset, frames=frames, random_background=True).batch(0)
    at_border = 0
    for f in range(4):
        (row,) = np.flatnonzero((frames.split.transforms == batch.transforms[f]).all((1, 2)))
        rows, columns = batch.pixels[f].astype(int).T
        for ray, (r, c) in enumerate(zip(rows, columns, strict=True)):
            share, clean = alpha[row, r, c] / 255, dataset.background[r, c] / 255
            top, left = max(r - _LEAST_REACH, 0), max(c - _LEAST_REACH, 0)
            near = np.s_[row, top : r + _LEAST_REACH + 1, left : c + _LEAST_REACH + 1]
            at_border += alone[near].shape != 2 * (2 * _LEAST_REACH + 1,)
            down, across = np.nonzero(alone[near])
            weights = np.exp(-np.square(down + top - r) - np.square(across + left - c).astype(float))
            beside = np.average(mixed[near][down, across] / 255, axis=0, weights=weights)
            # The least squares of `_mixed`, solved as such.
            system = np.array([[share], [_NEAR_WEIGHT**0.5]])
            known = np.stack([mixed[row, r, c] / 255 - (1 - share) * clean, _NEAR_WEIGHT**0.5 * beside])
            person = mixed[row, r, c] / 255 if share == 1 else np.linalg.lstsq(system, known)[0][0]
            wanted = np.clip(share * person + (1 - share) * batch.background[f, ray], 0, 1)
            np.testing.assert_allclose(batch.target[f, ray], wanted, atol=1e-6)  # float32
    assert at_border


@pytest.mark.parametrize("random_background", [False, True])
def test_some_rays_of_a_step_are_those_of_all(dataset, random_background):
    sampler = tiny.ray_sampler(tiny.config("head"), dataset, random_background=random_background)
    columns = np.array([1, 5, 6, 30])
    every, some = sampler.batch(3), sampler.batch(3, columns)
    wanted = {name: getattr(every, name)[:, columns] for name in ("pixels", "target", "background")}
    chex.assert_trees_all_equal(some, every.replace(**wanted))


def test_rays_fill_their_rectangles(dataset, tiny_data):
    # Three quarters of the rays in the face rectangle, 14 wide and 12 high at (9, 6): transposed, this would show.
    sampler = tiny.ray_sampler(tiny.config("head", tiny_data), dataset, regions={"face": 0.75, "frame": 0.25})
    pixels = np.stack([sampler.batch(step).pixels for step in range(40)])
    assert pixels.shape == (40, 4, 32, 2)
    face, frame = pixels[:, :, :24].reshape(-1, 2), pixels[:, :, 24:].reshape(-1, 2)
    assert face.min(0).tolist() == [6, 9] and face.max(0).tolist() == [17, 22]
    assert frame.min(0).tolist() == [0, 0] and frame.max(0).tolist() == [31, 31]


@pytest.mark.parametrize(
    "rect",
    [(2, 1, 3, 2), (0, 0, 3, 2), (4, 3, 3, 2), (0, 1, 7, 2), (2, 0, 3, 5), (0, 0, 7, 1), (6, 4, 1, 1), (0, 0, 7, 5)],
    ids=str,
)
def test_every_pixel_outside_a_rectangle_is_as_likely(rect):
    camera = Camera(9.0, 3.5, 2.5, height=5, width=7)
    x, y, width, height = rect
    inside = np.zeros((5, 7), bool)
    inside[y : y + height, x : x + width] = True
    # Where the rectangle is the whole image there is no outside: then anywhere.
    expected = np.argwhere(~inside) if not inside.all() else np.argwhere(inside)
    u = (np.arange(len(expected)) + 0.5) / len(expected)
    for shift in (-0.49, 0.0, 0.49):  # all quantiles of a pixel
        rows, columns = _around_rect(u + shift / len(expected), *(np.full(len(u), v) for v in rect), camera)
        drawn = np.stack([rows, columns], axis=-1)
        np.testing.assert_array_equal(drawn[np.lexsort(drawn.T[::-1])], expected)


def test_the_published_share_of_rays_in_and_outside_the_face(dataset, frames, tiny_data):
    settings = tiny.config("head", tiny_data, variants="smoke")
    assert dict(settings.train.regions) == {"face": 0.95, "outside": 0.05}
    sampler = tiny.ray_sampler(settings, dataset)
    pixels = np.stack([sampler.batch(step).pixels for step in range(60)]).astype(int)
    assert pixels.shape == (60, 1, 128, 2)
    rows, columns = np.moveaxis(pixels[:, 0], -1, 0)
    inside = (rows >= 6) & (rows < 6 + 12) & (columns >= 9) & (columns < 9 + 14)
    np.testing.assert_array_equal(inside.sum(1), 121)  # 121.6 of 128, rounded down as published
    # 360 draws among 856 pixels reach every side of the image.
    outside = pixels[:, 0][~inside]
    assert (outside.min(0) <= 1).all() and (outside.max(0) >= tiny.SIZE - 2).all()
    # Colours are those of the pixels, whichever way they were drawn.
    batch = sampler.batch(7)
    (row,) = np.flatnonzero((frames.split.transforms == batch.transforms[0]).all((1, 2)))
    rows, columns = batch.pixels[0].astype(int).T
    behind = dataset.background[rows, columns] / np.float32(255)
    np.testing.assert_allclose(batch.background[0], behind, rtol=1e-6)
    shown = frames.showing(SUBJECTS["head"], row, dataset.background)[rows, columns]
    np.testing.assert_allclose(batch.target[0], shown / np.float32(255), atol=1e-6)


def test_the_published_rectangle_has_rows_and_columns_interchanged(dataset, frames, tiny_data):
    right, swapped = (regions_of(dataset, frames, wrong) for wrong in (False, True))
    np.testing.assert_array_equal(swapped["face"], right["face"][:, [1, 0, 3, 2]])
    for name in right.keys() - {"face"}:
        np.testing.assert_array_equal(swapped[name], right[name])
    sampler = tiny.ray_sampler(
        tiny.config("head", tiny_data), dataset, regions={"face": 0.75, "outside": 0.25}, swapped_rect=True
    )
    pixels = np.stack([sampler.batch(step).pixels for step in range(40)])
    face, outside = pixels[:, :, :24].reshape(-1, 2), pixels[:, :, 24:].reshape(-1, 2)
    assert face.min(0).tolist() == [9, 6] and face.max(0).tolist() == [22, 17]
    assert not ((outside >= [9, 6]) & (outside <= [22, 17])).all(1).any()


def test_the_tracked_expression_goes_with_the_frame(tmp_path):
    dataset = load_dataset(tiny.add_landmarks(tiny.make_dataset(tmp_path / "dataset")))
    batch = tiny.ray_sampler(tiny.config("head"), dataset).batch(0)
    for f in range(4):
        (row,) = np.flatnonzero((dataset.train.transforms == batch.transforms[f]).all((1, 2)))
        expression = dataset.tracks["expression"][dataset.train.aud_id[row]]
        np.testing.assert_array_equal(batch.conditions.tracks["expression"][f], expression)
    assert dataset.tracks["expression"].std() > 0.1
