# SPDX-License-Identifier: Apache-2.0
"""``python -m openese``: the command ``openese``."""

import sys

from openese.sw.cli import main

sys.exit(main())
