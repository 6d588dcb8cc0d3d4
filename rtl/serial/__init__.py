# SPDX-License-Identifier: Apache-2.0
"""A serial link to the machine: packets, the UART, the bridge between them and the buses."""
