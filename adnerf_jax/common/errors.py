"""How a command can end other than well: one clear line each, never a traceback (`progress.exit_status`)."""


class UserError(Exception):
    """Bad input or a missing file. The message says what is wrong and what to do, in one line.

    Entry points (`run.py`, `python -m preprocessing`) print it and exit with status 2.
    """


class Preempted(Exception):
    """The machine is needed for something else (SIGTERM). The work is saved; the same command continues it.

    Entry points print the message and exit with status 75.
    """


class NotFinite(Exception):
    """A training step computed something that is not a finite number.

    Args:
      step: number of the step, counted from 1.
      terms: names of the metrics that are not finite.
    """

    def __init__(self, step: int, terms: list[str]):
        super().__init__(f"step {step}: {', '.join(terms)} not finite")
        self.step, self.terms = step, terms
