# SPDX-License-Identifier: Apache-2.0
"""The search for a machine: for a network, an FPGA and a goal, over configurations, densities and word lengths."""
