# SPDX-License-Identifier: Apache-2.0
"""A trained voice-activity detector, pruned and packed, run by the RTL on real speech."""
