# SPDX-License-Identifier: Apache-2.0
# Runs a script with Vivado's commands replaced by stubs that write down every call:
#   tclsh stubs.tcl SCRIPT COMMANDS RECORD [ARGUMENT ...]
# COMMANDS lists the commands there are; any other that is not Tcl's own stops the script, as it would in Vivado. RECORD
# gets a line for each call, its words in hexadecimal. The environment variable SLACK is the slack that is reported.

lassign $argv script commands record
set argv [lrange $argv 3 end]
set argc [llength $argv]
set record [open $record w]

# Objects are paths: what a command adds to or gets from an object lies below it.
proc answer {name words} {
  set quiet [expr {"-quiet" in $words}]
  set parent ""
  set positional {}
  for {set k 0} {$k < [llength $words]} {incr k} {
    set word [lindex $words $k]
    if {$word eq "-of_objects"} {
      set parent [lindex $words [incr k]]
    } elseif {![string match {-[a-z]*} $word]} {
      lappend positional $word
    }
  }
  set first [lindex $positional 0]
  switch -glob -- $name {
    get_timing_paths {return path}
    get_property {return [expr {$first eq "SLACK" ? $::env(SLACK) : [lindex [split [lindex $positional 1] /] end]}]}
    current_* - ipx::current_core {return [lindex [split $name _] end]}
    ipx::get_* {
      if {$first eq ""} {
        return $parent/found
      }
      return [expr {$quiet ? "" : "$parent/$first"}]
    }
    ipx::add_file_group {return [lindex $positional end]/[lindex $words 1]}
    ipx::add_* {return [lindex $positional end]/$first}
    get_* {return $positional}
    default {return ""}
  }
}

namespace eval ipx {}
namespace eval ipgui {}
set channel [open $commands]
foreach name [split [string trim [read $channel]] "\n"] {
  proc ::$name args [string map [list NAME $name] {
    set words {}
    foreach word [linsert $args 0 NAME] {
      lappend words [binary encode hex [encoding convertto utf-8 $word]]
    }
    puts $::record [join $words ,]
    answer NAME $args
  }]
}
close $channel
set argv0 $script
source $script
close $record
