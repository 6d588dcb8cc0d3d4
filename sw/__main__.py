# SPDX-License-Identifier: Apache-2.0
"""``python -m sw``: the command line of `cli`."""

import sys

from .cli import main

sys.exit(main())
