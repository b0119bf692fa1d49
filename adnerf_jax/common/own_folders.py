"""Folders that the program empties or fills are its own: `check_no_links`."""

import os
import pathlib

from adnerf_jax.common.errors import UserError


def check_no_links(*paths: pathlib.Path) -> None:
    """Checks folders of a workdir or a dataset before anything in them is deleted or written.

    A workdir may come from somebody else, and a link in it would have the program delete and write where it points. The
    folder that the user names may itself be a link.

    Raises:
      UserError: one of the paths is a symbolic link.
    """
    for path in paths:
        if path.is_symlink():
            raise UserError(
                f"{path} is a link to {os.readlink(path)!r}, where files would be deleted and written: delete the "
                f"link, or put a folder in its place"
            )
