"""Every error and warning that spinedose raises on purpose.

::

    SpinedoseError                  something a user can understand and mend
    ├── InvalidInput                a file or argument is wrong, incomplete or contradicts itself
    │   └── UnreadableFile          not DICOM, truncated, empty, or of another kind than asked for
    ├── UnsupportedPlan             a plan that is right, but that this engine does not compute (wedge, electrons, ...)
    ├── UnknownMachine              no beam data for this treatment machine or energy
    ├── BeamDataError               a machine file is wrong
    ├── BackendUnavailable          the asked-for device cannot be used here
    │   └── OutOfMemory             it has too little memory for this calculation
    └── NumericalError              a promise of the engine was broken (a bug: please report it)

    SpinedoseWarning                the computation goes on, and the warning is carried in the result

A message reads: problem (why it is one). What to do. Example::

    Beam 3 'LAO' has an enhanced dynamic wedge (its fluence is not modelled). Replan without it.

What can be mended by an argument names it apart, because Python and the command line spell it differently.
"""

from __future__ import annotations


class SpinedoseError(Exception):
    """Base of all errors; `str(error)` reads PROBLEM (WHY) WHAT TO DO.

    Parameters
    ----------
    problem : str
        What is wrong, with the name of the thing; no full stop.
    why : str
        Why that is a problem; no full stop. May be empty when it goes without saying.
    advice : str
        What the user can do; no full stop.
    argument : str
        The argument to do it with, as Python spells it: `bolus="ignore"`, or `beams` where the value is the user's. It
        follows the advice after "with". The command line has an option of the same name.
    """

    def __init__(self, problem: str, why: str = "", advice: str = "", argument: str = "") -> None:
        assert advice or not argument, "an argument belongs to an advice"
        self.problem, self.why, self.advice, self.argument = problem, why, advice, argument
        super().__init__(self.spelled_with(f"`{argument}`" if argument else ""))

    def spelled_with(self, argument: str) -> str:
        """The message, with another spelling of the argument."""
        text = self.problem + (f" ({self.why})" if self.why else "") + "."
        if not self.advice:
            return text
        return f"{text} {self.advice}" + (f" with {argument}." if argument else ".")

    def __reduce__(self) -> tuple[type[SpinedoseError], tuple[str, str, str, str]]:
        """Pickle with all parts, so that worker processes hand errors on unharmed."""
        return type(self), (self.problem, self.why, self.advice, self.argument)


class InvalidInput(SpinedoseError, ValueError):
    """A file or argument is wrong, incomplete or contradicts itself."""


class UnreadableFile(InvalidInput):
    """A file is not DICOM, is truncated or empty, or is of another kind than asked for."""


class UnsupportedPlan(SpinedoseError):
    """The plan is right, but holds something that this engine does not compute."""


class UnknownMachine(SpinedoseError):
    """There are no beam data for this treatment machine or energy."""


class BeamDataError(SpinedoseError):
    """A machine or beam file is wrong."""


class BackendUnavailable(SpinedoseError):
    """The asked-for device cannot be used on this computer."""


class OutOfMemory(BackendUnavailable):
    """The asked-for device has too little memory for this calculation."""


class NumericalError(SpinedoseError):
    """A promise of the engine was broken: not a number, lost energy. This is a bug."""


class SpinedoseWarning(UserWarning):
    """Something that the reader of the result must know; carried in the result's `warnings`."""
