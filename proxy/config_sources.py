"""Where settings come from: config.toml, then the environment (`PROXY_LOG_…`), then flags; the later wins."""

import tomllib
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

from platformdirs import user_config_path
from pydantic import ValidationError

from proxy.config import APP_NAME, DEFAULT_UPSTREAM, Config, settings
from proxy.errors import ConfigError

ENV_PREFIX = "PROXY_LOG_"
_OTHER_VARIABLES = ("CONFIG", "UPSTREAM", "CACHE")
"""What follows `PROXY_LOG_` and is no setting by itself; the last is where the demo keeps its model."""
_NO_OVERRIDES: Mapping[str, str | None] = MappingProxyType({})


def find_config_file(named: Path | None, environ: Mapping[str, str]) -> tuple[Path, bool]:
    """The configuration file, and whether somebody asked for it: if not, it need not be there."""
    if named is None and environ.get(f"{ENV_PREFIX}CONFIG"):
        named = Path(environ[f"{ENV_PREFIX}CONFIG"]).expanduser()
    return named or user_config_path(APP_NAME, appauthor=False) / "config.toml", named is not None


def load(
    config_file: Path | None, environ: Mapping[str, str], overrides: Mapping[str, str | None] = _NO_OVERRIDES
) -> Config:
    """The settings from the file, the environment and the flags; the later wins.

    Args:
        config_file: the file to read; None: that of `PROXY_LOG_CONFIG`, or the user's own if there is one.
        environ: environment variables, of which those beginning with `PROXY_LOG_` count.
        overrides: flags by name (`listen`, `upstream`, `web`, `trace`); None: not given.

    Raises:
        ConfigError: a file cannot be read, or a setting is unknown or malformed.
    """
    layers = _Layers()
    file, is_asked_for = find_config_file(config_file, environ)
    if is_asked_for or file.is_file():
        layers.add_file(file)
    layers.add_environment(environ)
    layers.add_flags(overrides)
    return layers.validated()


class _Layers:
    """Settings as they come together, remembering which source each is from, so that an error can name it."""

    def __init__(self) -> None:
        self._tree: dict[str, Any] = {}
        self._sources: dict[tuple[str, ...], str] = {}
        self._file = ""

    def add_file(self, file: Path) -> None:
        self._file = str(file)
        try:
            self._tree = tomllib.loads(file.read_text(encoding="utf-8"))
        except FileNotFoundError:
            raise ConfigError(f"{file}: there is no such configuration file") from None
        except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
            raise ConfigError(f"{file}: cannot be read as TOML: {error}") from None
        trace = self._tree.get("trace")
        if trace and isinstance(trace, str):
            self._tree["trace"] = str(file.absolute().parent / Path(trace).expanduser())

    def add_environment(self, environ: Mapping[str, str]) -> None:
        for variable in sorted(environ):
            name = variable.removeprefix(ENV_PREFIX)
            if name not in (variable, *_OTHER_VARIABLES):
                self._set(tuple(name.lower().split("__")), environ[variable], variable)
        if f"{ENV_PREFIX}UPSTREAM" in environ:
            self._set_default_upstream(environ[f"{ENV_PREFIX}UPSTREAM"], f"{ENV_PREFIX}UPSTREAM")

    def add_flags(self, overrides: Mapping[str, str | None]) -> None:
        for name, value in overrides.items():
            if value is None:
                continue
            if name == "upstream":
                self._set_default_upstream(value, "--upstream")
            else:
                self._set((name,), value, f"--{name}")

    def validated(self) -> Config:
        upstreams = self._tree.get("upstreams")
        if isinstance(upstreams, dict) and DEFAULT_UPSTREAM not in upstreams and self._default_name(upstreams) is None:
            default = Config.model_fields["upstreams"].default[DEFAULT_UPSTREAM]
            self._tree["upstreams"] = {DEFAULT_UPSTREAM: default, **upstreams}
        try:
            return Config.model_validate(self._tree)
        except ValidationError as invalid:
            error = invalid.errors(include_url=False)[0]
            raise ConfigError(self._explain(error["type"], error["loc"], error["msg"])) from None

    def _set(self, path: tuple[str, ...], value: object, source: str) -> None:
        tree = self._tree
        for name in path[:-1]:
            below = tree.setdefault(name, {})
            if not isinstance(below, dict):
                return  # the file has a plain value where a table belongs: that is the error to report
            tree = below
        tree[path[-1]] = value
        self._sources[path] = source

    def _set_default_upstream(self, url: str, source: str) -> None:
        upstreams = self._tree.get("upstreams", {})
        name = self._default_name(upstreams) if isinstance(upstreams, dict) else None
        self._set(("upstreams", name or DEFAULT_UPSTREAM, "url"), url, source)

    @staticmethod
    def _default_name(upstreams: dict[str, Any]) -> str | None:
        for name, upstream in upstreams.items():
            if isinstance(upstream, dict) and upstream.get("prefix", "/") == "/":
                return name
        return None

    def _explain(self, kind: str, location: tuple[str | int, ...], message: str) -> str:
        """One line: where it stands, which setting, what is wrong, what to do."""
        path = tuple(part for part in location if isinstance(part, str))
        source = next((self._sources[path[:n]] for n in range(len(path), 0, -1) if path[:n] in self._sources), "")
        key = ".".join(path)
        if kind == "extra_forbidden":
            problem = f"{key} is not a setting{_nearest(key, source)}"
        elif kind == "missing":
            problem = f"{key} is missing"
        elif kind == "model_type":
            problem = f"{key} is a table; write [{key}] and its settings below"
        else:
            problem = f"{key}: {message}".removeprefix(": ").replace("Value error, ", "", 1)
        return ": ".join(part for part in (source or self._file, problem) if part)


def _nearest(key: str, source: str) -> str:
    """A hint at the known setting that was meant, if one is near, spelled as its source has to spell it."""
    import difflib  # noqa: PLC0415 - only after a mistake

    name = key.split(".")[1] if key.startswith("upstreams.") else "NAME"
    known = ["upstream"] * source.startswith(ENV_PREFIX) + [each.replace("NAME", name) for each in settings()]
    near = difflib.get_close_matches(key, known, 1, 0.7)
    near += [each for each in known if each.rpartition(".")[2] == key.rpartition(".")[2]]
    if not near:
        return "; config.toml of the project lists them all"
    spelled = ENV_PREFIX + near[0].upper().replace(".", "__") if source.startswith(ENV_PREFIX) else near[0]
    return f"; did you mean {spelled}?"
