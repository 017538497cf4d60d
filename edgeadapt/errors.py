"""The errors that a user may see: one line that names the file or option, what is wrong, and the remedy."""

from __future__ import annotations


class EdgeAdaptError(Exception):
    """Unusable input or wrong usage. The command line prints the message alone and exits with 2."""

    exit_code = 2


class CheckFailed(EdgeAdaptError):
    """A check ran to its end and its answer is no (parity, integrity, a threshold). Exit code 1."""

    exit_code = 1


class BudgetInfeasibleError(EdgeAdaptError):
    """An energy budget is below what is spent in any case; no plan can keep it."""


class MissingExtra(EdgeAdaptError):
    """A command needs packages that one of the extras brings."""

    def __init__(self, extra: str, missing: str) -> None:
        super().__init__(f"this command needs '{missing}': pip install 'edgeadapt[{extra}]'")
