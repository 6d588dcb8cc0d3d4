# SPDX-License-Identifier: Apache-2.0
"""``openese build``: the targets, and how they refuse."""

import pytest

from openese.rtl.config import preset
from openese.rtl.targets import TARGETS, TargetError
from openese.rtl.verilog import verilog
from openese.sw import cli


@pytest.fixture
def build(capsys):
    """Runs the command: its exit status, standard output and standard error."""
    def run(*arguments):
        status = cli.main(["build", *map(str, arguments)])
        return status, *capsys.readouterr()
    return run


def test_the_verilog_alone_is_the_default(tmp_path, build):
    assert build("--config", "tiny", "-o", tmp_path / "deep" / "folder")[0] == 0
    assert [path.name for path in (tmp_path / "deep" / "folder").iterdir()] == ["openese.v"]
    assert (tmp_path / "deep" / "folder" / "openese.v").read_text() == verilog(preset("tiny"))


def test_help_tells_the_targets(build):
    text = build("--help")[1]
    for name, target in TARGETS.items():
        assert f"{name} " in text and target.summary in text


def test_a_target_says_why_it_cannot_be_written(tmp_path, monkeypatch, build):
    def refuse(self, config, folder):
        raise TargetError(f"{config.name} does not fit")

    monkeypatch.setattr("openese.rtl.targets.Target.write", refuse)
    assert build("--config", "tiny", "-o", tmp_path) == (2, "", "openese: tiny does not fit\n")


@pytest.mark.parametrize("missing", ["--config", "-o"])
def test_needs(missing, tmp_path, build):
    arguments = {"--config": "tiny", "-o": tmp_path}
    del arguments[missing]
    status, _, error = build(*(word for pair in arguments.items() for word in pair))
    assert status == 2 and missing in error
