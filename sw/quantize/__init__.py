# SPDX-License-Identifier: Apache-2.0
"""From floating point to integers: number formats chosen on calibration frames."""
