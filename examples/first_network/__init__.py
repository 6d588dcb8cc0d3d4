# SPDX-License-Identifier: Apache-2.0
"""A first network: from PyTorch to the Verilog."""
