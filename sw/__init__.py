# SPDX-License-Identifier: Apache-2.0
"""From a trained LSTM to integers in a memory image: import, prune, quantize, encode, pack, run."""
