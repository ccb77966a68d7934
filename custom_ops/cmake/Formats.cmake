# Writes all_formats.h from formats/*.h: a new format is a new file there. formats/q4_0.h defines formats::q4_0.

file(GLOB _headers CONFIGURE_DEPENDS "${CMAKE_CURRENT_SOURCE_DIR}/formats/*.h")
list(SORT _headers)
set(_includes "")
set(_entries "")
foreach(_header IN LISTS _headers)
  get_filename_component(_name "${_header}" NAME_WE)
  string(APPEND _includes "#include \"formats/${_name}.h\"\n")
  string(APPEND _entries "    &formats::${_name},\n")
endforeach()
file(CONFIGURE OUTPUT "${CMAKE_CURRENT_BINARY_DIR}/generated/all_formats.h" @ONLY CONTENT
"// Generated from formats/*.h.
#pragma once

@_includes@
namespace onnxquant {

inline constexpr const Format* kFormats[] = {
@_entries@};

}  // namespace onnxquant
")
