# SPDX-License-Identifier: Apache-2.0
"""``python -m rtl.build``: the command ``openese build``, from a checkout that is not installed."""

import runpy
import sys

if __name__ == "__main__":
    # This package came by the name rtl; its modules are to be loaded as openese.rtl, and under no second name.
    sys.modules.pop("rtl", None)
    sys.argv[1:1] = ["build"]
    runpy.run_module("openese", run_name="__main__")
