"""YAML whose mappings know the line that they begin on, read strictly: plain types alone, no key twice."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

from edgeadapt.errors import EdgeAdaptError


class Lined(dict[str, Any]):
    """A mapping, and the line of its first key, counted from 1."""

    line: int


class _Loader(yaml.SafeLoader):
    pass


def read(file: Path) -> Any:
    """The value in a YAML file; its mappings are `Lined`. Raises EdgeAdaptError that names file and line."""
    try:
        return yaml.load(file.read_text(encoding="utf-8"), _Loader)
    except OSError as error:
        raise EdgeAdaptError(f"{file}: cannot be read ({error.strerror})") from None
    except UnicodeDecodeError:
        raise EdgeAdaptError(f"{file}: is not UTF-8") from None
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        raise EdgeAdaptError(f"{file}, line {mark.line + 1 if mark else 1}: {error.problem}") from None
    except yaml.YAMLError as error:
        raise EdgeAdaptError(f"{file}: not YAML ({error})") from None


def line(value: Any) -> int:
    """The line that a mapping begins on; 1 for anything else, which keeps none."""
    return value.line if isinstance(value, Lined) else 1


def _mapping(loader: _Loader, node: yaml.MappingNode) -> Lined:
    made = Lined()
    made.line = node.start_mark.line + 1
    loader.flatten_mapping(node)
    for key_node, value_node in node.value:
        key = loader.construct_object(key_node, deep=True)
        if not isinstance(key, str) or key in made:
            problem = f"the key {key!r} is there twice" if isinstance(key, str) else f"the key {key!r} is not a string"
            raise yaml.constructor.ConstructorError(None, None, problem, key_node.start_mark)
        made[key] = loader.construct_object(value_node, deep=True)
    return made


_Loader.add_constructor(yaml.resolver.BaseResolver.DEFAULT_MAPPING_TAG, _mapping)
