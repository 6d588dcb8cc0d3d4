# SPDX-License-Identifier: Apache-2.0
"""``python -m docs.tables``: brings all generated tables of the documentation up to date."""

from docs.explain import tables as explain
from docs.markdown import update
from docs.reference import tables as reference
from docs.results import accuracy, callers, explore, fpga, latency, performance, zoo

__all__ = ["TABLES"]

#: By page and marker.
TABLES = {**explain.TABLES, **reference.TABLES, **performance.TABLES, **latency.TABLES, **callers.TABLES,
          **explore.TABLES, **fpga.TABLES, **accuracy.TABLES, **zoo.TABLES}

if __name__ == "__main__":
    update(TABLES)
