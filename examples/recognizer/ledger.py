# SPDX-License-Identifier: Apache-2.0
"""What has been measured, kept so that what was interrupted goes on."""

import json

__all__ = ["Ledger"]


class Ledger:
    """Results by name, in a file that is written whenever there is a new one."""

    def __init__(self, path):
        self._path = path
        self.found = json.loads(path.read_text()) if path.exists() else {}

    def measure(self, section, name, make, *given, **named):
        """What ``make`` gives of the other arguments, unless that is known."""
        entries = self.found.setdefault(section, {})
        if name not in entries:
            entries[name] = make(*given, **named)
            self._path.write_text(json.dumps(self.found, indent=1) + "\n")
        return entries[name]
