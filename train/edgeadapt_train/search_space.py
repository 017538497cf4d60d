"""What a search may try: for every key of the run's configuration, from where its values are drawn.

loguniform   low <= x <= high, log x uniform        uniform   low <= x <= high
int          low <= x <= high, whole                 categorical   one of the choices
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

from edgeadapt.errors import EdgeAdaptError
from edgeadapt_train.options import checked

if TYPE_CHECKING:
    import optuna

Value = str | int | float | bool | None


@dataclass(frozen=True)
class Dimension:
    """The values of one key."""

    type: Literal["loguniform", "uniform", "int", "categorical"]
    low: float | None = None
    high: float | None = None
    choices: tuple[Value, ...] = ()

    def __post_init__(self) -> None:
        if self.type == "categorical":
            if len(self.choices) < 2 or not (self.low is self.high is None):
                raise EdgeAdaptError("a categorical key needs at least two choices, and neither low nor high")
            return
        if self.choices or self.low is None or self.high is None:
            raise EdgeAdaptError(f"a {self.type} key needs low and high, and no choices")
        if not -math.inf < self.low < self.high < math.inf:
            raise EdgeAdaptError(f"low={self.low:g} and high={self.high:g}: low must be below high")
        if self.type == "loguniform" and self.low <= 0:
            raise EdgeAdaptError(f"low={self.low:g}: a loguniform key needs a positive low")
        if self.type == "int" and not (self.low.is_integer() and self.high.is_integer()):
            raise EdgeAdaptError(f"low={self.low:g} and high={self.high:g}: an int key needs whole numbers")

    @classmethod
    def of(cls, key: str, values: Any) -> Dimension:
        """From a configuration. Raises EdgeAdaptError naming the key."""
        where = f"search.space.{key}"
        if not isinstance(values, Mapping):
            raise EdgeAdaptError(f"{where}={values!r}: give a type with low and high, or with choices")
        plain = dict(values)
        choices = plain.pop("choices", None) or ()
        if not isinstance(choices, list | tuple) or not all(
            isinstance(one, str | int | float | bool | None) for one in choices
        ):
            raise EdgeAdaptError(f"{where}.choices={choices!r}: give a list of words and numbers")
        try:
            return cls(choices=tuple(choices), **checked(cls, plain, f"{where}."))
        except EdgeAdaptError as error:
            raise EdgeAdaptError(str(error) if str(error).startswith(where) else f"{where}: {error}") from None

    def draw(self, trial: optuna.Trial, key: str) -> Value:
        """A value for this trial."""
        if self.type == "categorical":
            return trial.suggest_categorical(key, self.choices)
        assert self.low is not None
        assert self.high is not None
        if self.type == "int":
            return trial.suggest_int(key, int(self.low), int(self.high))
        return trial.suggest_float(key, self.low, self.high, log=self.type == "loguniform")


@dataclass(frozen=True)
class SearchSettings:
    """`trials`: how many; 0: no search. `storage`: an RDB URL; None: a journal in the run's directory. `workers`:
    processes that take trials. `space`: by key of the configuration, such as lr or adapter.rank."""

    trials: int = 0
    storage: str | None = None
    workers: int = 1
    space: Mapping[str, Dimension] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.trials < 0:
            raise EdgeAdaptError(f"search.trials={self.trials}: give at least 1, or 0 for no search")
        if self.workers < 1:
            raise EdgeAdaptError(f"search.workers={self.workers}: give at least 1")
        if self.storage is not None and "://" not in self.storage:
            raise EdgeAdaptError(
                f"search.storage={self.storage}: give an RDB URL, such as sqlite:///search.db, or null"
            )
        if self.trials and not self.space:
            raise EdgeAdaptError("search.trials: there is nothing to search; give search.space.KEY={type: ...}")

    @classmethod
    def of(cls, values: Any) -> SearchSettings:
        """From a configuration's `search`. Raises EdgeAdaptError naming the key."""
        plain = dict(values)
        space = _flat(plain.pop("space", None) or {})
        return cls(space={key: Dimension.of(key, one) for key, one in space.items()}, **checked(cls, plain, "search."))


def _flat(space: Mapping[str, Any], above: str = "") -> dict[str, Any]:
    """Dotted keys: Hydra makes search.space.adapter.rank.type=int an object in an object."""
    found: dict[str, Any] = {}
    for name, value in space.items():
        key = f"{above}{name}"
        if isinstance(value, Mapping) and not isinstance(value.get("type"), str):
            found |= _flat(value, f"{key}.")
        else:
            found[key] = value
    return found
