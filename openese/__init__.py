# SPDX-License-Identifier: Apache-2.0
"""OpenESE: sparse LSTMs on FPGAs."""
