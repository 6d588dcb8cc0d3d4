# SPDX-License-Identifier: Apache-2.0
# The clock of a machine that is built out of context. In a design, whatever drives aclk defines it.
create_clock -name aclk -period 5.000 [get_ports aclk]
