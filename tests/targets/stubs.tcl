# SPDX-License-Identifier: Apache-2.0
# Runs a script and records each command that is not Tcl's own, in the place of Vivado:
#   tclsh stubs.tcl SCRIPT RECORD [ARGUMENT ...]
# RECORD gets a line for each call, its words in hexadecimal. The environment variable SLACK is the slack that is reported.

lassign $argv script record
set argv [lrange $argv 2 end]
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

proc unknown {name args} {
  set words {}
  foreach word [linsert $args 0 $name] {
    lappend words [binary encode hex [encoding convertto utf-8 $word]]
  }
  puts $::record [join $words ,]
  answer $name $args
}
set argv0 $script
source $script
close $record
