# SPDX-License-Identifier: Apache-2.0
"""Types are followed from the host's programs into the machine's configuration."""

from pathlib import Path

import pytest

api = pytest.importorskip("mypy.api", reason="needs the extra 'dev'")

ROOT = Path(__file__).parents[1]

SNIPPET = """
from openese.rtl.config import Config
from openese.rtl.registers import Control


def machine(config: Config) -> int:
    return config.{field} | Control.RUN
"""


def judged(field, folder, monkeypatch):
    monkeypatch.setenv("MYPYPATH", str(ROOT))
    snippet = folder / "snippet.py"
    snippet.write_text(SNIPPET.format(field=field))
    out, err, status = api.run(["--config-file", str(ROOT / "pyproject.toml"), "--cache-dir", str(folder / "cache"),
                                str(snippet)])
    assert not err
    return out, status


def test_a_misspelt_field_of_a_machine_is_an_error(tmp_path, monkeypatch):
    assert judged("channels", tmp_path, monkeypatch)[1] == 0
    out, status = judged("chanels", tmp_path, monkeypatch)
    assert status == 1 and '"Config" has no attribute "chanels"' in out and "Found 1 error" in out
