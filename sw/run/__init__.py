# SPDX-License-Identifier: Apache-2.0
"""The host's side: whole sequences through a machine, and the links to it."""
