"""`proxy-log path` tells where everything lies."""

import json
from pathlib import Path

from click.testing import CliRunner

from proxy.cli.main import cli


def test_path_prints_the_path_alone(tmp_path: Path) -> None:
    file = tmp_path / "t.db"
    assert CliRunner().invoke(cli, ["path", "--trace", str(file)]).stdout == f"{file}\n"
    assert CliRunner().invoke(cli, ["path"], env={"PROXY_LOG_TRACE": str(file)}).stdout == f"{file}\n"


def test_path_as_json_tells_what_belongs_to_it(tmp_path: Path) -> None:
    file, config = tmp_path / "t.db", tmp_path / "c.toml"
    config.write_text('trace = "t.db"')
    about = json.loads(CliRunner().invoke(cli, ["path", "--json", "--config", str(config)]).stdout)
    assert about == {
        "trace": str(file),
        "exists": False,
        "size_bytes": None,
        "journal": f"{file}.journal",
        "key": f"{file}.key",
        "config_file": str(config),
    }
    file.write_bytes(b"x" * 10)
    file.with_name("t.db-wal").write_bytes(b"y" * 5)
    about = json.loads(CliRunner().invoke(cli, ["path", "--json"], env={"PROXY_LOG_CONFIG": str(config)}).stdout)
    assert (about["exists"], about["size_bytes"], about["config_file"]) == (True, 15, str(config))
    link = tmp_path / "link.db"
    link.symlink_to(file)
    about = json.loads(CliRunner().invoke(cli, ["path", "--json", "--trace", str(link)]).stdout)
    assert about["size_bytes"] == 15
