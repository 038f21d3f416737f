"""Reading the configuration: YAML → environment variables filled in → frozen structs, every error with its place."""

from __future__ import annotations

import difflib
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, get_args

import msgspec
import yaml

from vecbak.config import Config, LoadedConfig
from vecbak.errors import UsageError
from vecbak.paths import absolute, path_of

MAXIMUM_BYTES = 1_000_000
MAXIMUM_NODES = 100_000

_VARIABLE = re.compile(r"\$(?:\$|\{([A-Za-z_][A-Za-z0-9_]*)(?::-([^}]*))?\})")
_HINT = "`vecbak init` writes a commented starter file; config/ of the project holds its reference and JSON Schema."


class _Loader(yaml.SafeLoader):
    """SafeLoader that refuses a key given twice: the first would be dropped in silence."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen = set()
        for key_node, _ in node.value:
            key = self.construct_object(key_node, deep=True)
            if key in seen:
                raise yaml.constructor.ConstructorError(None, None, "a key is given twice", key_node.start_mark)
            seen.add(key)
        return super().construct_mapping(node, deep=deep)


def find_config(option: str | None, environment: Mapping[str, str] = os.environ) -> Path:
    """Which file is meant: `--config`, then `$VECBAK_CONFIG`, then `./vecbak.yaml`.

    Raises:
        UsageError: there is none.
    """
    text = option or environment.get("VECBAK_CONFIG") or "vecbak.yaml"
    path = absolute(path_of(text))
    if not os.path.lexists(path) and os.access(path.parent, os.X_OK):  # else reading it says what is in the way
        raise UsageError(
            f"the configuration file {text} does not exist",
            "Write one with `vecbak init`, or name yours with --config FILE or $VECBAK_CONFIG.",
        )
    return path


def load_config(path: Path, environment: Mapping[str, str] = os.environ) -> LoadedConfig:
    """Read a configuration file.

    Args:
        path: the YAML file.
        environment: where `${NAME}` and `${NAME:-default}` are looked up.

    Raises:
        UsageError: unreadable, not YAML, an unknown key, a wrong type or value, a missing variable;
            the message holds the file and the line or the key's path, never a value that could be a secret.
    """
    document = _parse(path, _read(path))
    try:
        config = msgspec.convert(_fill_in(document, environment, path, ""), Config, strict=False)
    except msgspec.ValidationError as error:
        raise UsageError(f"{path}: {_explain(str(error))}", _HINT) from None
    except RecursionError:
        raise UsageError(f"{path}: nested too deeply", _HINT) from None
    except UnicodeError:
        raise UsageError(f"{path}: text that is not valid Unicode", _HINT) from None
    return LoadedConfig(config, path)


def _read(path: Path) -> str:
    try:
        with path.open("rb") as file:  # of a device or a pipe nobody knows the size before
            data = file.read(MAXIMUM_BYTES + 1)
        if len(data) > MAXIMUM_BYTES:
            raise UsageError(f"{path}: larger than {MAXIMUM_BYTES:,} bytes; this is no configuration file", _HINT)
        text = data.decode("utf-8-sig").replace("\r\n", "\n").replace("\r", "\n")
    except OSError as error:
        raise UsageError(f"{path}: cannot be read: {error.strerror}", "Check the path and its permissions.") from None
    except UnicodeDecodeError as error:
        raise UsageError(f"{path}: not UTF-8 text (byte {error.start})", _HINT) from None
    return text


def _parse(path: Path, text: str) -> object:
    try:
        document = yaml.load(text, Loader=_Loader)  # noqa: S506 - a SafeLoader
    except yaml.MarkedYAMLError as error:
        # str(error) would quote the line, which may hold a password
        mark = error.problem_mark or error.context_mark
        place = f"line {mark.line + 1}, column {mark.column + 1}: " if mark else ""
        raise UsageError(f"{path}: {place}not valid YAML: {_without_values(str(error.problem))}", _HINT) from None
    except Exception as error:  # noqa: BLE001 - PyYAML's constructors let anything through (AttributeError, ValueError …)
        raise UsageError(f"{path}: not valid YAML: {type(error).__name__}", _HINT) from None
    _check_size(document, path)
    if document is None:  # nothing, or comments alone: the smallest useful file (DESIGN.md 4)
        return {}
    if not isinstance(document, dict):
        raise UsageError(f"{path}: expected keys and values, found {_kind(document)}", _HINT)
    # a section whose keys are all commented out, as in the starter file, is null to YAML
    return {key: value for key, value in document.items() if value is not None}


def _without_values(problem: str) -> str:
    # what it quotes may be a secret; signs and <stream end> are not
    return re.sub(
        r"'([^']*)'", lambda match: match.group() if re.fullmatch(r"\W+|<.*>|\\t", match.group(1)) else "…", problem
    )


def _check_size(document: object, path: Path) -> None:
    """Aliases can make a small file a gigantic document."""
    waiting, seen = [document], 0
    while waiting:
        item = waiting.pop()
        seen += 1
        if seen > MAXIMUM_NODES:
            raise UsageError(f"{path}: more than {MAXIMUM_NODES:,} values; this is no configuration file", _HINT)
        if isinstance(item, dict):
            waiting += [*item.keys(), *item.values()]
        elif isinstance(item, list | tuple | set):
            waiting += item


def _fill_in(value: object, environment: Mapping[str, str], path: Path, key: str) -> object:
    if isinstance(value, str):
        return _VARIABLE.sub(lambda match: _variable(match, environment, path, key), value)
    if isinstance(value, list):
        return [_fill_in(item, environment, path, f"{key}[{index}]") for index, item in enumerate(value)]
    if isinstance(value, dict):
        return {name: _fill_in(item, environment, path, f"{key}.{name}".lstrip(".")) for name, item in value.items()}
    return value


def _variable(match: re.Match[str], environment: Mapping[str, str], path: Path, key: str) -> str:
    if match.group() == "$$":
        return "$"
    name, default = match.groups()
    value = environment.get(name) or default
    if value is None:
        value = environment.get(name)
    if value is None:
        raise UsageError(
            f"{path}: {key}: the environment variable {name} is not set",
            f"Set {name}, or give a default: ${{{name}:-default}}.",
        )
    return value


def _explain(message: str) -> str:
    """`Expected `int`, got `str` - at `$.backup.jobs`` → `backup.jobs: expected int, got str`."""
    if " - at `key` in `$" in message:
        return "a key is no text; put it into quotes"
    text, _, place = message.partition(" - at `$")
    place = place.removesuffix("`").removeprefix(".")
    if text.startswith("Invalid enum value"):
        text = f"expected one of {', '.join(_known_values(place))}"
    unknown = re.search(r"unknown field `(.*)`", text)
    if unknown:
        name = unknown.group(1)
        close = difflib.get_close_matches(name, _known_keys(place), n=1)
        suggestion = f"; did you mean `{close[0]}`?" if close else ""
        return f"{f'{place}.{name}'.lstrip('.')}: unknown key{suggestion}"
    text = text[:1].lower() + text[1:] if text.startswith(("Expected", "Invalid")) else text
    return f"{place}: {text}" if place else text


def _section(place: str) -> Any:
    struct: Any = Config
    for name in filter(None, place.split(".")):
        struct = type(getattr(struct(), name, None))
    return struct


def _known_keys(place: str) -> list[str]:
    struct = _section(place)
    return [field.name for field in msgspec.structs.fields(struct)] if hasattr(struct, "__struct_fields__") else []


def _known_values(place: str) -> list[str]:
    section, _, name = place.rpartition(".")
    field = next(field for field in msgspec.structs.fields(_section(section)) if field.name == name)
    return _literals(field.type)


def _literals(type_: Any) -> list[str]:
    """The texts of a Literal, also inside Annotated and of what may be absent."""
    return [text for item in get_args(type_) for text in ([item] if isinstance(item, str) else _literals(item))]


def _kind(value: object) -> str:
    return {list: "a list", str: "text", int: "a number", float: "a number", bool: "true or false"}.get(
        type(value), type(value).__name__
    )
