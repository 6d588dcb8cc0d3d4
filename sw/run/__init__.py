# SPDX-License-Identifier: Apache-2.0
"""The host's side: links to machines, devices, and whole sequences through them."""
