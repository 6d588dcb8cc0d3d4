# SPDX-License-Identifier: Apache-2.0
"""A program in C that serves four callers on one machine."""
