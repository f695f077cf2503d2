"""Finds a model's prompt template on this machine, in the folders of LM Studio or wherever a server says the file is.

Facts (lmstudio-api.md 9)
-------------------------
* LM Studio's home is what ~/.lmstudio-home-pointer says, else ~/.cache/lm-studio if it is there, else ~/.lmstudio.
* Models lie in `models/<publisher>/<repo>/<file>.gguf`; MLX: a folder, with the template among the tokenizer's files.
* transformers, which MLX loads it with: `chat_template.jinja` goes before the template in tokenizer_config.json; that
  one may be a list of `{"name", "template"}`, of which `default` is meant unless another is asked for.
* What the user sets for a model is in
  `.internal/user-concrete-model-default-config/<publisher>/<repo>/<file>.gguf.json`, as `operation` or `load` with
  `fields`; the template's key is `llm.prediction.promptTemplate` or `llm.load.promptTemplate` [T].
"""

import json
import re
import time
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, Self

from proxy.errors import ProxyLogError
from proxy.prompt.gguf import read_header

_OVERRIDES = ".internal/user-concrete-model-default-config"
_KEYS = {"operation": "llm.prediction.promptTemplate", "load": "llm.load.promptTemplate"}
_MAX_TEXT_BYTES = 1 << 24
_LOOK_AGAIN_S = 60


@dataclass(frozen=True, slots=True)
class FoundTemplate:
    """A template, and where it was found."""

    text: str
    source: str
    """`override` (the user's, in LM Studio), `gguf`, or `tokenizer` (of an MLX folder)."""
    detail: str
    """The file."""
    bos_token: str = ""
    eos_token: str = ""


@dataclass(frozen=True, slots=True)
class ModelFiles:
    """LM Studio's folder on this machine."""

    home: Path

    @classmethod
    def find(cls, folder: str = "", user_home: Path | None = None) -> Self:
        """`folder`: LM Studio's home, if it is not where it is as a rule; `user_home` is for tests."""
        if folder:
            return cls(Path(folder).expanduser())
        base = user_home or Path.home()
        try:
            told = (base / ".lmstudio-home-pointer").read_text(encoding="utf-8").strip()
        except (OSError, UnicodeDecodeError):
            told = ""
        old = base / ".cache" / "lm-studio"
        if told and "\0" not in told:
            return cls(Path(told))
        return cls(old if old.is_dir() else base / ".lmstudio")

    def template(self, path: str) -> FoundTemplate | None:
        """The template of the model at `path`: absolute, or as LM Studio names it, below its `models`.

        None where there is no such file here, or none with a template.
        """
        try:
            file = self._file(path)
            if file is None:
                return None
            stamp = file.stat().st_mtime_ns
            if not file.is_dir() and not file.is_file():  # reading a pipe might wait for ever
                return None
            override = self._override(path)
        except (OSError, ValueError, RuntimeError):  # it is no path; the last: links that lead in a circle
            return None
        found = _of_folder(file) if file.is_dir() else _of_gguf(file, stamp)
        if override is None:
            return found
        tokens = (found.bos_token, found.eos_token) if found is not None else ("", "")
        return FoundTemplate(*override, *tokens)

    def path_of(self, name: str) -> str | None:
        """The path below `models` of the one model that a name in requests means; None: there is none, or several.

        A name is that of the file, of its folder (a `-GGUF` at its end may be left out), or that with the publisher.
        """
        return _paths_by_name(self.home / "models", int(time.monotonic() // _LOOK_AGAIN_S)).get(_plain(name))

    def _file(self, path: str) -> Path | None:
        """An absolute path as it is; a relative one never leaves the folder of models."""
        if not path or "\0" in path:
            return None
        if Path(path).is_absolute():
            return Path(path)
        models = (self.home / "models").resolve()
        file = (models / path).resolve()
        return file if file.is_relative_to(models) else None

    def _override(self, path: str) -> tuple[str, str, str] | None:
        if Path(path).is_absolute():
            models = (self.home / "models").resolve()
            if not Path(path).resolve().is_relative_to(models):
                return None
            path = str(Path(path).resolve().relative_to(models))
        base = (self.home / _OVERRIDES).resolve()
        file = (base / f"{path}.json").resolve()
        told = _json(file) if file.is_relative_to(base) else None
        for place, key in _KEYS.items():
            for field in _fields(told, place):
                text = _jinja(field.get("value")) if field.get("key") == key else None
                if text:
                    return text, "override", str(file)
        return None


def _plain(name: str) -> str:
    """Without case, and without the number that LM Studio gives a second instance."""
    return re.sub(r":\d+$", "", name.lower())


@lru_cache(maxsize=2)
def _paths_by_name(models: Path, now: int) -> dict[str, str]:
    """What each name means, where it means one model; `now` changes when it is to be looked at again."""
    found: dict[str, set[str]] = defaultdict(set)
    for folder in models.glob("*/*"):
        files = [file for file in folder.glob("*.gguf") if not file.name.lower().startswith("mmproj")]
        for model in files or ([folder] if (folder / "tokenizer_config.json").is_file() else []):
            path = model.relative_to(models).as_posix()
            repo = folder.name.lower()
            repos = {repo, repo.removesuffix("-gguf")}
            own = {path.lower(), model.name.lower(), model.stem.lower()} if files else set()
            for name in own | repos | {f"{folder.parent.name.lower()}/{one}" for one in repos}:
                found[name].add(path)
    return {name: next(iter(paths)) for name, paths in found.items() if len(paths) == 1}


@lru_cache(maxsize=16)
def _of_gguf(file: Path, stamp: int) -> FoundTemplate | None:
    """`stamp`: when it was changed; another one is another file."""
    try:
        header = read_header(file)
    except ProxyLogError:  # no model, or not here: nothing is known then
        return None
    text = header.text("tokenizer.chat_template")
    return FoundTemplate(text, "gguf", str(file), header.token("bos"), header.token("eos")) if text else None


def _of_folder(folder: Path) -> FoundTemplate | None:
    """Of an MLX model: the tokenizer's configuration, or a file of its own beside it."""
    config = _json(folder / "tokenizer_config.json")
    config = config if isinstance(config, dict) else {}
    beside = _json(folder / "chat_template.json")
    texts = {
        "chat_template.jinja": _text(folder / "chat_template.jinja"),
        "tokenizer_config.json": _default(config.get("chat_template")),
        "chat_template.json": _default(beside.get("chat_template") if isinstance(beside, dict) else None),
    }
    name = next((name for name, text in texts.items() if text), None)
    if name is None:
        return None
    tokens = _token(config, "bos_token"), _token(config, "eos_token")
    return FoundTemplate(texts[name], "tokenizer", str(folder / name), *tokens)


def _default(told: Any) -> str:
    """The template in a setting: itself, or the one of its list that is called `default`; empty if there is none."""
    named = told if isinstance(told, list) else [{"name": "default", "template": told}]
    texts = [one.get("template") for one in named if isinstance(one, dict) and one.get("name") == "default"]
    return texts[0] if texts and isinstance(texts[0], str) else ""


def _token(config: dict[str, Any], name: str) -> str:
    """A special token: its text, or an object that has it as `content`."""
    told = config.get(name)
    text = told.get("content") if isinstance(told, dict) else told
    return text if isinstance(text, str) else ""


def _json(file: Path) -> Any:
    """What a file holds; None where there is none, or no JSON in it."""
    try:
        return json.loads(_text(file))
    except (ValueError, RecursionError):
        return None


def _text(file: Path) -> str:
    """What a file of text holds; empty where there is none."""
    try:
        return file.read_text(encoding="utf-8") if file.is_file() and file.stat().st_size <= _MAX_TEXT_BYTES else ""
    except (OSError, UnicodeDecodeError):
        return ""


def _fields(told: Any, place: str) -> Iterator[dict[str, Any]]:
    part = told.get(place) if isinstance(told, dict) else None
    fields = part.get("fields") if isinstance(part, dict) else None
    yield from (field for field in fields if isinstance(field, dict)) if isinstance(fields, list) else ()


def _jinja(value: Any) -> str:
    """The text of LM Studio's setting of a template; empty where it is another kind, or none."""
    inner = value.get("jinjaPromptTemplate") if isinstance(value, dict) else None
    text = inner.get("template") if isinstance(inner, dict) else None
    return text if isinstance(text, str) else ""
