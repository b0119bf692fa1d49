"""How many seeds collapse: heads whose density vanishes at the start of training, with and without the remedy.

    python -m benchmarks.collapse --data D

trains heads of width 32 with 16 + 32 samples for 500 steps on the same batches from different initialisations, all
seeds in one program, three times: as published, with the face rectangle corrected, and with density gradients that leak
during warm-up. Prints how many collapse (opacity below `COLLAPSED_OPACITY`) and the PSNR over the seeds.
"""

import argparse

import jax
import jax.numpy as jnp
import numpy as np

from adnerf_jax.common.progress import Bar, say
from adnerf_jax.configuration import base as common
from adnerf_jax.data.datasets import SUBJECTS, dataset_of, load_frames
from adnerf_jax.data.scenes import make_scene
from adnerf_jax.models.codes.registry import make_codes
from adnerf_jax.training.batches import RaySampler
from adnerf_jax.training.density_collapse import COLLAPSED_OPACITY
from adnerf_jax.training.optim import make_optimizer
from adnerf_jax.training.stages import example_batch, make_stage, step_key

SEEDS, STEPS, RAYS = 20, 500, 256


def settings(data: str, size: int, swapped: bool, density_leak_steps: int):
    """The configuration of the paper's head at a small size."""
    config = common.get_config("head", None)
    with config.unlocked():
        config.data, config.size = data, size
    config.model.head.update(width=32, colour_width=16, coarse_samples=16, fine_samples=32)
    config.train.update(rays=RAYS, micro_batches=1, density_leak_steps=density_leak_steps)
    config.compat.face_rect = swapped
    return config


def run(config, seeds: int, steps: int) -> tuple[np.ndarray, np.ndarray]:
    """Trains all seeds: opacity [steps, seeds] of the level with the least, and mean squared error [steps, seeds]."""
    dataset = dataset_of(config)
    frames = load_frames(dataset, dataset.train)
    stage = make_stage(config, dataset.camera)
    scene = make_scene(dataset, frames, make_codes(config.model.head).members, config.train.audio_components)
    example = example_batch(1, 1, dataset.windows.shape[1:])
    tx = make_optimizer(config.optim, config.train.attention_from)
    sampler = RaySampler(
        dataset, frames, frames_per_step=1, rays_per_frame=RAYS, regions=dict(config.train.regions),
        swapped_rect=config.compat.face_rect, random_background=False, subject=SUBJECTS["head"], seed=0,
    )  # fmt: skip

    @jax.jit
    def begin(keys):
        params = jax.vmap(lambda key: stage.init(key, example, scene))(keys)
        return params, jax.vmap(tx.init)(params)

    @jax.jit
    def update(params, opt_state, batch, step):
        def one(params, opt_state):
            def loss(params):
                return stage.loss(params, {}, scene, batch, step_key(0, step), step)

            gradient, metrics = jax.grad(loss, has_aux=True)(params)
            changes, opt_state = tx.update(gradient, opt_state, params)
            return jax.tree.map(jnp.add, params, changes), opt_state, metrics

        return jax.vmap(one)(params, opt_state)

    params, opt_state = begin(jax.random.split(jax.random.key(1), seeds))
    opacity, error = [], []
    bar = Bar("steps", steps, "steps", compiles=True)
    for step in range(steps):
        params, opt_state, metrics = update(params, opt_state, sampler.batch(step), jnp.int32(step))
        opacity.append(np.asarray(metrics["opacity"]))
        error.append(np.asarray(metrics["mse"]))
        bar.update()
    bar.close()
    return np.stack(opacity), np.stack(error)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.collapse", description=__doc__.splitlines()[0])
    parser.add_argument("--data", required=True, help="a prepared dataset")
    parser.add_argument("--size", type=int, default=112)
    parser.add_argument("--seeds", type=int, default=SEEDS)
    parser.add_argument("--steps", type=int, default=STEPS)
    arguments = parser.parse_args()
    cases = [
        ("as published", True, 0),
        ("as published, rectangle corrected", False, 0),
        # The leak ends at half of the steps, so that the other half shows whether the density persists without it.
        ("density leak in the first half", False, arguments.steps // 2),
    ]
    rows = []
    for name, swapped, density_leak_steps in cases:
        say(name)
        config = settings(arguments.data, arguments.size, swapped, density_leak_steps)
        opacity, error = run(config, arguments.seeds, arguments.steps)
        dead = opacity[-1] < COLLAPSED_OPACITY
        psnr = -10 * np.log10(error[-50:].mean(0))
        first = [int((opacity[:, i] < COLLAPSED_OPACITY).argmax()) for i in np.flatnonzero(dead)]
        rows.append((name, int(dead.sum()), first, psnr))
    print(f"{'':34}{'collapsed':>10}{'PSNR least':>12}{'median':>8}   collapsed from step")
    for name, dead, first, psnr in rows:
        print(f"{name:34}{dead:7}/{len(psnr):2}{psnr.min():12.2f}{np.median(psnr):8.2f}   {sorted(first)}")


if __name__ == "__main__":
    main()
