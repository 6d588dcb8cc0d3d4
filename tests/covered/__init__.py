# SPDX-License-Identifier: Apache-2.0
"""How much of the emitted machine, of its state machines and of the software the tests run."""
