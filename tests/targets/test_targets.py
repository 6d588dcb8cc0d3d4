# SPDX-License-Identifier: Apache-2.0
"""``python -m rtl.build``."""

import pytest
from click.testing import CliRunner

from openese.rtl.build import main
from openese.rtl.config import preset
from openese.rtl.targets import TARGETS, TargetError
from openese.rtl.verilog import verilog


def build(*arguments):
    return CliRunner().invoke(main, [str(argument) for argument in arguments])


def test_the_verilog_alone_is_the_default(tmp_path):
    result = build("--config", "tiny", "-o", tmp_path / "deep" / "folder")
    assert result.exit_code == 0, result.output
    assert [path.name for path in (tmp_path / "deep" / "folder").iterdir()] == ["openese.v"]
    assert (tmp_path / "deep" / "folder" / "openese.v").read_text() == verilog(preset("tiny"))


def test_help_tells_the_targets():
    text = build("--help").output
    for name, target in TARGETS.items():
        assert f"{name} " in text and target.summary in text


def test_a_target_says_why_it_cannot_be_written(tmp_path, monkeypatch):
    def refuse(self, config, folder):
        raise TargetError(f"{config.name} does not fit")

    monkeypatch.setattr("openese.rtl.targets.Target.write", refuse)
    result = build("--config", "tiny", "-o", tmp_path)
    assert result.exit_code == 1 and result.output == "verilog: tiny does not fit\n"


@pytest.mark.parametrize("missing", ["--config", "-o"])
def test_needs(missing, tmp_path):
    arguments = {"--config": "tiny", "-o": tmp_path}
    del arguments[missing]
    result = build(*(word for pair in arguments.items() for word in pair))
    assert result.exit_code == 2 and f"'{missing}'" in result.output.replace("'-o' / '--output'", "'-o'")
