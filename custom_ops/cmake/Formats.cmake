# Writes all_formats.h and all_encoders.h from formats/*.h: a new format is a new file there. formats/q4_0.h defines the array
# formats::q4_0 and the type encoders::q4_0.

file(GLOB _headers CONFIGURE_DEPENDS "${CMAKE_CURRENT_SOURCE_DIR}/formats/*.h")
list(SORT _headers)
set(_includes "")
set(_families "")
set(_encoders "")
set(_names "")
foreach(_header IN LISTS _headers)
  get_filename_component(_name "${_header}" NAME_WE)
  string(APPEND _includes "#include \"formats/${_name}.h\"\n")
  string(APPEND _families "    {std::begin(formats::${_name}), std::end(formats::${_name})},\n")
  string(APPEND _names "static_assert(same(formats::${_name}[0].name, \"${_name}\"), \"formats/${_name}.h defines another name\");\n")
  if(NOT ONNXQUANT_ENCODERS OR _name IN_LIST ONNXQUANT_ENCODERS)
    string(APPEND _encoders "    encoder_of<encoders::${_name}, formats::${_name}>(\"${_name}\"),\n")
  endif()
endforeach()
file(CONFIGURE OUTPUT "${CMAKE_CURRENT_BINARY_DIR}/generated/all_formats.h" @ONLY CONTENT
"// Generated from formats/*.h.
#pragma once

#include <iterator>

@_includes@
namespace onnxquant {

// The variants of one format, which share a name but not their planes.
struct Family {
  const Format* first;
  const Format* last;
  const Format* begin() const { return first; }
  const Format* end() const { return last; }
};

inline constexpr Family kFamilies[] = {
@_families@};

}  // namespace onnxquant
")
file(CONFIGURE OUTPUT "${CMAKE_CURRENT_BINARY_DIR}/generated/all_encoders.h" @ONLY CONTENT
"// Generated from formats/*.h, for encode/encoders.cpp.
#pragma once

@_includes@
namespace onnxquant::ONNXQUANT_ISA {

constexpr Encoder kAllEncoders[] = {
@_encoders@};
@_names@
}  // namespace onnxquant::ONNXQUANT_ISA
")
