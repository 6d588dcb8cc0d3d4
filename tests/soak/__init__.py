# SPDX-License-Identifier: Apache-2.0
"""Random campaigns against the machine and its surroundings, for minutes or for hours: ``nox -s soak``."""
