# SPDX-License-Identifier: Apache-2.0
"""Training the phone recognizer that `sw/speech` ships, and measuring what pruning and quantization cost it."""
