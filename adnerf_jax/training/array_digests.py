"""Paths, shapes and digests of the arrays of a tree: what a checkpoint should hold, and what it does."""

import hashlib
import os
from typing import Any, NamedTuple

import jax
import numpy as np

from adnerf_jax.common.errors import Option, UserError

Shapes = dict[str, list[int]]


class ArrayDigest(NamedTuple):
    """An array without its numbers."""

    shape: list[int]
    dtype: str
    digest: str


def digests_of(tree: Any) -> dict[str, dict[str, Any]]:
    """Shape, type and digest of each array, by path, as JSON values: zarr and Orbax miss some flipped bits."""
    arrays = {path: np.asarray(leaf) for path, leaf in _leaves(jax.device_get(tree)).items()}
    return {
        path: ArrayDigest(list(a.shape), str(a.dtype), digest_of(a.tobytes()))._asdict() for path, a in arrays.items()
    }


def digest_of(data: bytes) -> str:
    """The digest of some bytes, in hexadecimal."""
    return hashlib.blake2b(data, digest_size=16).hexdigest()


def shapes_of(tree: Any) -> Shapes:
    """The shape of each array, by path."""
    return {path: list(leaf.shape) for path, leaf in _leaves(tree).items()}


def check_same_shapes(stored: Shapes, expected: Shapes, workdir: str | os.PathLike, what: str) -> None:
    """Raises UserError where the arrays of a checkpoint are not those of the configuration's models.

    Args:
      stored: those of the checkpoint.
      expected: those of the models.
      workdir: the checkpoint's, for the message.
      what: what the checkpoint belongs to, for the message ("this run", "the head").
    """
    for path in sorted(stored.keys() | expected.keys()):
        if stored.get(path) != expected.get(path):
            raise UserError(
                f"the checkpoint of {what} in {workdir} has another model or other data than the configuration: "
                f"{path} is {_format_shape(stored.get(path))} there and {_format_shape(expected.get(path))} here; use "
                f"the configuration it was trained with, or another ",
                Option("workdir"),
            )


def _format_shape(shape: list[int] | None) -> str:
    return "absent" if shape is None else str(tuple(shape))


def _leaves(tree: Any) -> dict[str, Any]:
    """Arrays by path; the paths of a dataclass are those of the dict of its fields."""

    def name(key: Any) -> str:
        return str(getattr(key, "key", getattr(key, "name", getattr(key, "idx", key))))

    return {"/".join(map(name, path)): leaf for path, leaf in jax.tree_util.tree_flatten_with_path(tree)[0]}
