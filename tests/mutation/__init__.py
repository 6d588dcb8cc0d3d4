# SPDX-License-Identifier: Apache-2.0
"""Scores of the tests: how many small faults in the blocks they notice. ``nox -s mutate``."""
