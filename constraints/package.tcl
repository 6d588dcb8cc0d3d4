# SPDX-License-Identifier: Apache-2.0
# Packages the machine as IP from its sources alone: vivado -mode batch -source package.tcl
# What comes out, in packaged/ beside this file, is what component.xml beside it says already.

set here [file dirname [file normalize [info script]]]
source [file join $here settings.tcl]
set root [file join $here packaged]

create_project -in_memory -part [dict get $settings part]
add_files -norecurse [file join $here hdl openese.v]
add_files -fileset constrs_1 -norecurse [list \
  [file join $here constraints openese.xdc] [file join $here constraints openese_ooc.xdc]]
set_property PROCESSING_ORDER LATE [get_files openese.xdc]
set_property USED_IN {synthesis implementation out_of_context} [get_files openese_ooc.xdc]
set_property top openese [current_fileset]
update_compile_order -fileset sources_1

file delete -force $root
file mkdir $root
ipx::package_project -root_dir $root -vendor [dict get $settings vendor] -library [dict get $settings library] \
  -taxonomy [dict get $settings taxonomy] -import_files -force
set core [ipx::current_core]
foreach property {name version display_name description vendor_display_name company_url} {
  set_property $property [dict get $settings $property] $core
}
set_property supported_families [dict get $settings families] $core
set_property core_revision 1 $core

# The packager infers what it knows by name; what it has not found is inferred from the ports that belong to it.
dict for {bus about} [dict get $settings buses] {
  if {[llength [ipx::get_bus_interfaces -quiet $bus -of_objects $core]] == 0} {
    ipx::infer_bus_interface [dict get $about ports] [dict get $about vlnv] $core
  }
  set interface [ipx::get_bus_interfaces $bus -of_objects $core]
  dict for {parameter value} [dict get $about parameters] {
    if {[llength [ipx::get_bus_parameters -quiet $parameter -of_objects $interface]] == 0} {
      ipx::add_bus_parameter $parameter $interface
    }
    set_property value $value [ipx::get_bus_parameters $parameter -of_objects $interface]
  }
  if {[dict get $about clocked]} {
    ipx::associate_bus_interfaces -busif $bus -clock aclk -reset aresetn $core
  }
}

# One address block with every register. The packager makes one of its own.
foreach map [ipx::get_memory_maps -quiet -of_objects $core] {
  ipx::remove_memory_map [get_property name $map] $core
}
set map [ipx::add_memory_map s_axi $core]
set_property slave_memory_map_ref s_axi [ipx::get_bus_interfaces s_axi -of_objects $core]
set block [ipx::add_address_block registers $map]
set_property base_address 0 $block
set_property range [dict get $settings register_range] $block
set_property width 32 $block
set_property usage register $block
set_property access read-write $block
dict for {name about} [dict get $settings registers] {
  set register [ipx::add_register $name $block]
  set_property address_offset [dict get $about offset] $register
  set_property size 32 $register
  set_property access [dict get $about access] $register
  set_property description [dict get $about description] $register
  dict for {field where} [dict get $about fields] {
    set object [ipx::add_field $field $register]
    set_property bit_offset [dict get $where low] $object
    set_property bit_width [dict get $where width] $object
    set_property access [dict get $about access] $object
    set_property description [dict get $where description] $object
  }
}

# What the configuration is, for drivers and for whoever looks at the block; it cannot be changed here.
set page [ipgui::get_pagespec -name "Page 0" -component $core]
dict for {name about} [dict get $settings parameters] {
  set parameter [ipx::add_user_parameter $name $core]
  set_property value_resolve_type user $parameter
  set_property value_format [dict get $about format] $parameter
  set_property value [dict get $about value] $parameter
  set_property enablement_value false $parameter
  ipgui::add_param -name $name -component $core -parent $page
}

file copy -force [file join $here drivers] $root
set group [ipx::add_file_group -type software_driver {} $core]
dict for {path type} [dict get $settings driver_files] {
  set_property type $type [ipx::add_file $path $group]
}

ipx::create_xgui_files $core
ipx::update_checksums $core
ipx::check_integrity $core
ipx::save_core $core
close_project
