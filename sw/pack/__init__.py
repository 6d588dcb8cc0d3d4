# SPDX-License-Identifier: Apache-2.0
"""From integers to a memory image: encode, place and schedule, pack."""
