"""What is due after a step of training, from the numbers of the steps alone."""

from typing import NamedTuple

from ml_collections import ConfigDict

# Steps between two checks for collapse.
COLLAPSE_CHECK_EVERY = 250


class Due(NamedTuple):
    """What follows a step.

    Attributes:
      step: number of the step, counted from 1: updates done after it.
      update: whether parameters are updated; False for a step that is left out after numbers that were not finite.
      log: a line of `metrics.jsonl`, and numbers beside the progress bar.
      collapse_check: see `density_collapse.check_collapse`.
      validation: pictures and PSNR of held-out frames.
      checkpoint: the state is saved.
      last: the training ends here.
    """

    step: int
    update: bool
    log: bool
    collapse_check: bool
    validation: bool
    checkpoint: bool
    last: bool

    @property
    def finite_check(self) -> bool:
        """Whether the metrics must be known to be finite: before they are used, and before a state is saved."""
        return self.log or self.checkpoint or self.collapse_check


class Schedule(NamedTuple):
    """Intervals in steps (`config.train`); after the last step everything but the check for collapse is due.

    Attributes:
      steps: number of steps of the whole training.
      log_every, checkpoint_every, validate_every, collapse_check_every: intervals in steps.
    """

    steps: int
    log_every: int
    checkpoint_every: int
    validate_every: int
    collapse_check_every: int

    @classmethod
    def of(cls, config: ConfigDict) -> "Schedule":
        """The schedule of a configuration."""
        train = config.train
        return cls(train.steps, train.log_every, train.checkpoint_every, train.validate_every, COLLAPSE_CHECK_EVERY)

    def due(self, step: int, left_out: bool = False) -> Due:
        """What follows a step, counted from 1; `left_out`: it has no update, so no metrics."""
        last = step == self.steps
        return Due(
            step=step,
            update=not left_out,
            log=not left_out and (step % self.log_every == 0 or last),
            collapse_check=not left_out and not last and step % self.collapse_check_every == 0,
            validation=step % self.validate_every == 0 or last,
            checkpoint=step % self.checkpoint_every == 0 or last,
            last=last,
        )
