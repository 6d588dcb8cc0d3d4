# SPDX-License-Identifier: Apache-2.0
"""Whole networks: the machine computes the LSTMs, the network's own runtime computes the rest."""
