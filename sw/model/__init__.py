# SPDX-License-Identifier: Apache-2.0
"""The model: layers, networks of them, and their integers."""
