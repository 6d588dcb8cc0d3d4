# SPDX-License-Identifier: Apache-2.0
"""Keep results in a file, so that an interrupted study continues."""

import json

from openese.output import write_text

__all__ = ["Ledger"]


class Ledger:
    """Results by section and name in a JSON file, which is written after each new result."""

    def __init__(self, path):
        self._path = path
        self.results = json.loads(path.read_text()) if path.exists() else {}

    def measure(self, section, name, make, *arguments, **named):
        """Return the result with this name; if it is missing, compute ``make(*arguments, **named)`` and keep it."""
        entries = self.results.setdefault(section, {})
        if name not in entries:
            entries[name] = make(*arguments, **named)
            write_text(self._path, json.dumps(self.results, indent=1) + "\n")
        return entries[name]
