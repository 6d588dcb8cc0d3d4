# SPDX-License-Identifier: Apache-2.0
"""Trained models of other packages on recorded speech, compared with their own runtimes.

``nox -s zoo`` runs them all and writes the table of ``docs/results/index.md``.
"""
