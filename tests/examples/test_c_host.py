# SPDX-License-Identifier: Apache-2.0
"""The example in C: four callers, one of whom joins later, at the emitted Verilog, under the sanitizers."""

import subprocess

import numpy as np
import pytest
from click.testing import CliRunner
from programs import COMPILERS, sanitizes

from examples import c_host
from examples.c_host import __main__ as example


@pytest.fixture
def compiler():
    if not COMPILERS:
        pytest.skip("needs a C compiler: apt install gcc")
    if not sanitizes(COMPILERS[0]):
        pytest.skip(f"{COMPILERS[0]} cannot link its sanitizers")
    return COMPILERS[0]


def test_the_example_is_short():
    text = (example.HERE / "serve.c").read_text()
    assert 30 < len(text.splitlines()) <= 60
    assert max(map(len, text.splitlines())) <= 120
    assert c_host.__doc__


@pytest.mark.sim
def test_every_answer_is_that_of_the_reference(compiler, tmp_path):
    done = CliRunner().invoke(example.main, ["--turns", "12", "--compiler", compiler, "-o", str(tmp_path)])
    assert done.exit_code == 0, done.output
    assert done.output == "43 answers to 4 callers, all equal to the reference\n"
    # An image that is not that of the header is refused.
    data = bytearray((tmp_path / "net.img").read_bytes())
    data[200] ^= 1
    (tmp_path / "net.img").write_bytes(data)
    failed = subprocess.run([str(tmp_path / "serve"), str(example.library([example.emitted(example.MACHINE)])),
                             *(str(tmp_path / name) for name in ("net.img", "frames.f32", "answers.f32"))],
                            text=True, capture_output=True)
    assert failed.returncode == 1 and failed.stderr.startswith("serve: start: OTHER_IMAGE: ")


@pytest.mark.sim
def test_a_wrong_answer_fails(compiler, tmp_path, monkeypatch):
    monkeypatch.setattr(example, "expected", lambda image, frames: np.zeros((43, example.CELLS)))
    arguments = ["--turns", "12", "--no-sanitize", "--compiler", compiler, "-o", str(tmp_path)]
    done = CliRunner().invoke(example.main, arguments)
    assert done.exit_code == 1 and "not those of the reference" in done.output


def test_a_compiler_that_is_not_there(tmp_path):
    done = CliRunner().invoke(example.main, ["--compiler", "no-such-cc", "-o", str(tmp_path)])
    assert done.exit_code == 1 and "there is no compiler 'no-such-cc'" in done.output
