# SPDX-License-Identifier: Apache-2.0
"""Trained models as others ship them, on recorded speech, against the runtimes they were made for.

``nox -s zoo`` runs them all and writes the table of ``docs/results/index.md``.
"""
