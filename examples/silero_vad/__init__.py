# SPDX-License-Identifier: Apache-2.0
"""Silero VAD, a trained voice-activity detector: pruned, packed, and run by the Verilog on recorded speech."""
