# SPDX-License-Identifier: Apache-2.0
"""``python -m docs.results.callers [FILE]``: a table of what ``openese bench --voices --json`` found.

The file replaces callers.json. Without a file, the table is made of callers.json.
"""

import json
import sys
from pathlib import Path

from docs.markdown import table, update

__all__ = ["DATA", "TABLES"]

DATA = Path(__file__).parent / "callers.json"


def callers():
    """Live callers, by machine."""
    return table(["machine", "voices it is fast enough for", "voices it holds", "of its time",
                  "cycles to page a voice out", "and in", "voices out and in, a second"],
                 [(f"`{row['preset']}`", f"{row['fast_enough']:,}", f"**{row['held']:,}**",
                   f"{100 * row['share']:.1f} %", f"{row['page_out']:,}", f"{row['page_in']:,}",
                   f"{row['pages_per_second']:,}")
                  for row in json.loads(DATA.read_text())])


TABLES = {("results/index.md", "callers"): callers}

if __name__ == "__main__":
    if sys.argv[1:]:
        DATA.write_text(json.dumps(json.loads(Path(sys.argv[1]).read_text()), indent=1) + "\n")
    update(TABLES)
