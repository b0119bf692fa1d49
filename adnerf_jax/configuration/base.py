"""The configuration of a stage: the declared defaults, changed by the variants after the colon of `--config`."""

from ml_collections import ConfigDict

from adnerf_jax.common.errors import UserError
from adnerf_jax.configuration import variants
from adnerf_jax.configuration.declaration import build
from adnerf_jax.configuration.settings import declarations

# They apply in this order, not in that of the command line.
VARIANTS = {
    "fast": variants.fast,
    "small": variants.small,
    "smoke": variants.smoke,
    "single_nerf": variants.single_nerf,
    "expression": variants.expression,
}


def parse_variants(arg: str | None, known: tuple[str, ...] = tuple(VARIANTS)) -> tuple[str, ...]:
    """`fast,smoke` to its names, in the order in which they apply.

    Raises:
      UserError: an unknown name.
    """
    names = [name for name in (arg or "").split(",") if name]
    unknown = [name for name in names if name not in known]
    if unknown:
        raise UserError(f"unknown variant {', '.join(unknown)}; there are: {', '.join(known)}")
    return tuple(name for name in known if name in names)


def get_config(stage: str, arg: str | None) -> ConfigDict:
    """The configuration of a stage.

    Args:
      stage: head or torso.
      arg: variants, separated by commas; none: AD-NeRF as published.

    Raises:
      UserError: an unknown variant, or variants that do not combine.
    """
    names = parse_variants(arg)
    family = "fast" if "fast" in names else "paper"
    config = build(declarations(stage, family), stage)
    config.family = family
    config.variants = names
    for name in names:
        VARIANTS[name](config)
    return config.lock()
