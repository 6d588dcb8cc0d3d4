# SPDX-License-Identifier: Apache-2.0
"""Train the phone recognizer in `sw/speech`, and measure the cost of pruning and quantization."""
