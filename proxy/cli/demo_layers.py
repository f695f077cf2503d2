"""Parameters for the lookalike's models, as `proxy-log demo` takes them: defaults and presets."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import click

from proxy.demo.parameters import PARAMETERS, Layer, layer_of, layer_of_fields

Defaults = dict[str, Layer]
"""By a model's key; "": those of all models."""


def read_pairs(pairs: Sequence[str]) -> dict[str, str]:
    """NAME=VALUE, any number of times.

    Raises:
        click.BadParameter: one is something else.
    """
    found = {}
    for pair in pairs:
        name, equals, value = pair.partition("=")
        if not equals:
            raise click.BadParameter(f"{pair!r} is not NAME=VALUE")
        found[name.strip()] = value.strip()
    return found


def read_defaults(pairs: Sequence[str]) -> Defaults:
    """[MODEL:]NAME=VALUE, any number of times; a value is JSON, or else text.

    Raises:
        click.BadParameter: there is no such parameter, or it does not take that value.
    """
    bodies: dict[str, dict[str, Any]] = {}
    for name, value in read_pairs(pairs).items():
        model, _, parameter = name.rpartition(":")
        bodies.setdefault(model, {})[parameter] = _value(value)
    return {model: _layer(body) for model, body in bodies.items()}


def _value(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        return text


def read_presets(pairs: Sequence[str]) -> dict[str, Layer]:
    """NAME=FILE, any number of times.

    Raises:
        click.BadParameter: a file cannot be read, or is no preset.
    """
    return {name: _preset(Path(file)) for name, file in read_pairs(pairs).items()}


def _preset(file: Path) -> Layer:
    try:
        body = json.loads(file.read_text(encoding="utf-8"))
        if isinstance(body, dict) and "operation" in body:  # T: as LM Studio stores them
            return layer_of_fields({"layers": [{"config": body["operation"]}]})
        if not isinstance(body, dict):
            raise TypeError("it is no JSON object")
    except OSError as error:
        raise click.BadParameter(f"{file}: cannot read the preset: {error.strerror}") from None
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise click.BadParameter(f"{file}: not a preset: {error}") from None
    return _layer(body)


def _layer(body: Mapping[str, Any]) -> Layer:
    known = [one.openai for one in PARAMETERS if one.openai]
    for name in body:
        if name not in known:
            raise click.BadParameter(f"there is no parameter {name!r}; there are: {', '.join(known)}")
    try:
        return layer_of(body, "openai")
    except (ValueError, TypeError) as error:
        raise click.BadParameter(str(error)) from None
