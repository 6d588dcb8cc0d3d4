# SPDX-License-Identifier: Apache-2.0
"""Phone recognition on the machine: features of a recording, phones, and the bundled network."""
