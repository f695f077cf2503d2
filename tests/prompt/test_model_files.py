"""Templates of models on this machine: LM Studio's folders, as it lays them out."""

import json
import shutil
from pathlib import Path

import pytest

from proxy.prompt.model_files import ModelFiles

PATH = "lmstudio-community/SmolLM2-GGUF/SmolLM2-Q4.gguf"


@pytest.fixture
def home(tmp_path: Path, smollm2: Path) -> Path:
    """LM Studio's folder, with one model."""
    home = tmp_path / ".lmstudio"
    (home / "models" / PATH).parent.mkdir(parents=True)
    shutil.copy(smollm2, home / "models" / PATH)
    return home


def write_override(home: Path, value: object) -> None:
    file = home / ".internal/user-concrete-model-default-config" / f"{PATH}.json"
    file.parent.mkdir(parents=True, exist_ok=True)
    field = {"key": "llm.prediction.promptTemplate", "value": value}
    file.write_text(json.dumps({"preset": "", "operation": {"fields": [field]}, "load": {"fields": []}}))


def test_the_template_and_its_tokens_stand_in_the_models_file(tmp_path: Path, home: Path) -> None:
    found = ModelFiles.find(user_home=tmp_path).template(PATH)
    assert found is not None
    assert found.source == "gguf"
    assert "<|im_start|>" in found.text
    assert found.eos_token == "<|im_end|>"
    assert ModelFiles(home).template(str(home / "models" / PATH)) == found


def test_what_the_user_has_set_for_a_model_goes_before_its_file(home: Path) -> None:
    write_override(home, {"type": "jinja", "jinjaPromptTemplate": {"template": "mine"}, "stopStrings": []})
    found = ModelFiles(home).template(PATH)
    assert found is not None
    assert (found.text, found.source, found.eos_token) == ("mine", "override", "<|im_end|>")
    write_override(home, {"type": "manual", "manualPromptTemplate": {}})
    again = ModelFiles(home).template(PATH)
    assert again is not None
    assert again.source == "gguf"


def test_an_mlx_folder_has_it_among_the_tokenizers_files(tmp_path: Path) -> None:
    folder = tmp_path / "models/mlx-community/Qwen-4bit"
    folder.mkdir(parents=True)
    config = {"eos_token": {"content": "<end>"}, "bos_token": None}
    (folder / "tokenizer_config.json").write_text(json.dumps({**config, "chat_template": "in the configuration"}))
    files = ModelFiles(tmp_path)
    found = files.template("mlx-community/Qwen-4bit")
    assert found is not None
    assert (found.text, found.source, found.bos_token, found.eos_token) == (
        *("in the configuration", "tokenizer"),
        *("", "<end>"),
    )
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
    (folder / "chat_template.jinja").write_text("in a file of its own")
    beside = files.template("mlx-community/Qwen-4bit")
    assert beside is not None
    assert beside.text == "in a file of its own"


@pytest.mark.parametrize("path", ["", "nobody/nothing/none.gguf", "../../secret.gguf", "/nowhere/x.gguf", "a\0b"])
def test_a_path_that_leads_to_no_model_gives_nothing(tmp_path: Path, path: str) -> None:
    (tmp_path / "secret.gguf").write_bytes(b"GGUF and more")
    (tmp_path / "lm" / "models").mkdir(parents=True)
    assert ModelFiles(tmp_path / "lm").template(path) is None


def test_the_home_is_where_lm_studio_says_it_is(tmp_path: Path) -> None:
    assert ModelFiles.find(user_home=tmp_path).home == tmp_path / ".lmstudio"
    (tmp_path / ".cache/lm-studio").mkdir(parents=True)
    assert ModelFiles.find(user_home=tmp_path).home == tmp_path / ".cache/lm-studio"
    (tmp_path / ".lmstudio-home-pointer").write_text("/srv/lm\n")
    assert ModelFiles.find(user_home=tmp_path).home == Path("/srv/lm")
    assert ModelFiles.find(str(tmp_path)).home == tmp_path


def test_a_name_in_requests_means_the_one_model_that_is_called_so(tmp_path: Path) -> None:
    for path in (
        "acme/Good-3B-GGUF/Good-3B-Q4.gguf",
        "acme/Good-3B-GGUF/mmproj-Good.gguf",
        "acme/Two-GGUF/Two-Q4.gguf",
    ):
        (tmp_path / "models" / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "models" / path).touch()
    (tmp_path / "models/acme/Two-GGUF/Two-Q8.gguf").touch()
    (tmp_path / "models/apple/mlx-4bit").mkdir(parents=True)
    (tmp_path / "models/apple/mlx-4bit/tokenizer_config.json").touch()
    files = ModelFiles(tmp_path)
    for name in ("good-3b", "Good-3B-Q4", "acme/good-3b", "good-3b:2", "acme/Good-3B-GGUF/Good-3B-Q4.gguf"):
        assert files.path_of(name) == "acme/Good-3B-GGUF/Good-3B-Q4.gguf"
    assert files.path_of("two") is None, "there are two"
    assert files.path_of("two-q8") == "acme/Two-GGUF/Two-Q8.gguf"
    assert files.path_of("apple/mlx-4bit") == "apple/mlx-4bit"
    assert files.path_of("good") is files.path_of("") is files.path_of("../x") is None
    assert ModelFiles(tmp_path / "nowhere").path_of("good-3b") is None
