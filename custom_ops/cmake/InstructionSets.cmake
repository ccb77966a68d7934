# Each instruction set is an object library of its own, the only ones that may hold its instructions; isa/dispatch.cpp picks at run
# time. simd/target.h says what they define. The sources are the same for all: kernels/kernels.cpp and network/kernels.cpp for each
# set, encode/encoders.cpp and calibration/observers.cpp for each kind of vectors, which several sets may share, and codes/map_bytes.cpp
# for each way to look up bytes.
#
# Writes instruction_sets.h, the table of dispatch. ONNXQUANT_HAS_<NAME> tells isa/cpu.cpp which there are.

include(CheckCXXCompilerFlag)

# Adds the instruction sets of the target's architecture, from the slowest to the fastest. ONNXQUANT_PARTS lists the object libraries.
function(onnxquant_instruction_sets portable)
  set(ONNXQUANT_PARTS ${portable})
  set(_declarations "")
  set(_rows "")
  _onnxquant_instruction_set(scalar VECTORS scalar DOT scalar NETWORK scalar BYTES scalar)
  if(CMAKE_SYSTEM_PROCESSOR MATCHES "^(x86_64|AMD64|amd64)$")
    target_compile_definitions(${portable} PRIVATE ONNXQUANT_X86)
    _onnxquant_x86()
  elseif(CMAKE_SYSTEM_PROCESSOR MATCHES "^(aarch64|arm64)$" AND NOT MSVC)
    target_compile_definitions(${portable} PRIVATE ONNXQUANT_NEON)
    set(dot -march=armv8.2-a+dotprod)
    _onnxquant_instruction_set(neon_dot VECTORS neon DOT neon NETWORK neon BYTES neon OPTIONS ${dot})
    _onnxquant_instruction_set(neon_i8mm VECTORS neon DOT neon NETWORK neon BYTES neon OPTIONS ${dot}+i8mm DEFINITIONS ONNXQUANT_NEON_I8MM)
  endif()
  foreach(name IN LISTS ONNXQUANT_INSTRUCTION_SETS)
    if(NOT _rows MATCHES "{\"${name}\"")
      message(FATAL_ERROR "ONNXQUANT_INSTRUCTION_SETS: no instruction set is called '${name}' here")
    endif()
  endforeach()
  _onnxquant_write_table()
  set(ONNXQUANT_PARTS ${ONNXQUANT_PARTS} PARENT_SCOPE)
endfunction()

macro(_onnxquant_x86)
  if(MSVC)
    set(avx2 /arch:AVX2)
    set(avx512 /arch:AVX512)
    set(vnni "")
    set(vbmi "")
  else()
    set(avx2 -mavx2 -mfma -mf16c)
    set(avx512 ${avx2} -mavx512f -mavx512dq -mavx512bw -mavx512vl)
    set(vnni -mavx512vnni)
    set(vbmi -mavx512vbmi)
    if(CMAKE_CXX_COMPILER_ID STREQUAL "GNU")
      # GCC 12's own avx512fintrin.h warns (GCC bug 105593).
      list(APPEND avx512 -Wno-maybe-uninitialized -Wno-uninitialized)
    endif()
  endif()
  set(_options_of_bytes_avx2 ${avx2})
  set(_options_of_bytes_avx512vbmi ${avx512} ${vbmi})
  _onnxquant_instruction_set(avx2 VECTORS avx2 DOT avx2 NETWORK avx2 BYTES avx2 OPTIONS ${avx2} VECTOR_OPTIONS ${avx2})
  _onnxquant_avxvnni()
  # Encoders and observers need nothing beyond AVX-512 F, BW, DQ and VL.
  set(wide ${avx512})
  if(NOT MSVC)
    list(APPEND wide -mprefer-vector-width=512)
  endif()
  _onnxquant_instruction_set(avx512vnni VECTORS avx512 DOT avx512vnni NETWORK avx512 BYTES avx2
    BETTER_BYTES avx512vbmi OPTIONS ${avx512} ${vnni} VECTOR_OPTIONS ${wide})
  _onnxquant_amx()
endmacro()

# Compilers older than the instructions do without them.
macro(_onnxquant_avxvnni)
  set(options ${avx2})
  set(known TRUE)
  set(instruction _mm256_dpbusd_avx_epi32)
  if(ONNXQUANT_EMULATE)
    # The same in the encoding of AVX-512, for CPUs that have only that one.
    list(APPEND options -mavx512vl -mavx512vnni)
    set(instruction _mm256_dpbusd_epi32)
  elseif(MSVC)
    if(MSVC_VERSION LESS 1930)
      set(known FALSE)
    endif()
  else()
    check_cxx_compiler_flag(-mavxvnni ONNXQUANT_KNOWS_AVXVNNI)
    set(known ${ONNXQUANT_KNOWS_AVXVNNI})
    list(APPEND options -mavxvnni)
  endif()
  if(known)
    _onnxquant_instruction_set(avxvnni VECTORS avx2 DOT avx2 NETWORK avx2 BYTES avx2 OPTIONS ${options} VECTOR_OPTIONS ${avx2}
      DEFINITIONS ONNXQUANT_VNNI_256=${instruction})
  endif()
endmacro()

# Other systems than Linux have not been tried: there the tiles' permission is another question. Few rows are left to the kernels
# of AVX-512 VNNI.
macro(_onnxquant_amx)
  check_cxx_compiler_flag(-mamx-bf16 ONNXQUANT_KNOWS_AMX)
  if(CMAKE_SYSTEM_NAME STREQUAL "Linux" AND ONNXQUANT_KNOWS_AMX AND TARGET onnxquant_kernels_avx512vnni)
    set(options ${avx512} ${vnni} -mavx512bf16)
    if(NOT ONNXQUANT_EMULATE)
      list(APPEND options -mamx-tile -mamx-int8 -mamx-bf16)
    endif()
    _onnxquant_instruction_set(amx KERNELS avx512vnni VECTORS avx512 DOT avx512vnni NETWORK avx512 CONVOLVE amx
      BYTES avx2 BETTER_BYTES avx512vbmi MANY_ROWS OPTIONS ${options} VECTOR_OPTIONS ${wide})
  endif()
endmacro()

# One instruction set. KERNELS: the set whose kernels it uses for few rows, else its own; MANY_ROWS: it has kernels/<name>.cpp for
# many; VECTORS: simd/<vectors>.h; DOT: kernels/dot/<dot>.h; NETWORK: network/vectors/<network>.h; CONVOLVE: network/<convolve>.h,
# else convolve_dots.h; BYTES: codes/bytes/<bytes>.h; BETTER_BYTES: the same where the CPU has more than the set promises; OPTIONS and
# DEFINITIONS of the kernels; VECTOR_OPTIONS of the rest.
function(_onnxquant_instruction_set name)
  cmake_parse_arguments(set "MANY_ROWS" "KERNELS;VECTORS;DOT;NETWORK;CONVOLVE;BYTES;BETTER_BYTES"
    "OPTIONS;DEFINITIONS;VECTOR_OPTIONS" ${ARGN})
  if(ONNXQUANT_INSTRUCTION_SETS AND NOT name STREQUAL "scalar" AND NOT name IN_LIST ONNXQUANT_INSTRUCTION_SETS)
    return()
  endif()
  set(parts ${ONNXQUANT_PARTS})
  set(declarations "${_declarations}")
  set(many_rows nullptr)
  if(NOT set_KERNELS)
    set(set_KERNELS ${name})
    _onnxquant_part(onnxquant_kernels_${name} ${name} kernels/kernels.cpp)
    string(APPEND declarations "namespace ${name} {\nextern const KernelTable kKernels;\n}\n")
  endif()
  if(NOT set_CONVOLVE)
    set(set_CONVOLVE convolve_dots)
  endif()
  _onnxquant_part(onnxquant_network_${name} ${name} network/kernels.cpp)
  string(APPEND declarations "namespace ${name} {\nextern const NetworkTable kNetwork;\n}\n")
  if(set_MANY_ROWS)
    set(many_rows ${name}::many_rows)
    _onnxquant_part(onnxquant_kernels_${name} ${name} kernels/${name}.cpp)
    string(APPEND declarations "namespace ${name} {\nManyRows many_rows(const Weights& weights);\n}\n")
  endif()
  if(NOT TARGET onnxquant_vectors_${set_VECTORS})
    set(set_OPTIONS ${set_VECTOR_OPTIONS})
    set(set_DEFINITIONS "")
    if(NOT MSVC)
      # Nobody reads the flags of floating point exceptions: both sides of a choice may be computed.
      list(APPEND set_OPTIONS -fno-trapping-math)
    endif()
    _onnxquant_part(onnxquant_vectors_${set_VECTORS} ${set_VECTORS} encode/encoders.cpp calibration/observers.cpp)
    string(APPEND declarations
      "namespace ${set_VECTORS} {\nextern const EncoderTable kEncoders;\nextern const ObserverTable kObservers;\n}\n")
  endif()
  set(better "nullptr, nullptr")
  foreach(bytes IN ITEMS ${set_BYTES} ${set_BETTER_BYTES})
    if(NOT TARGET onnxquant_bytes_${bytes})
      set(set_OPTIONS ${_options_of_bytes_${bytes}})
      set(set_DEFINITIONS "ONNXQUANT_BYTES_HEADER=\"codes/bytes/${bytes}.h\"")
      _onnxquant_part(onnxquant_bytes_${bytes} ${bytes} codes/map_bytes.cpp)
      string(APPEND declarations "namespace ${bytes} {\nvoid map_bytes(const std::uint8_t* table, const std::uint8_t* in, \
std::int64_t count, std::uint8_t* out);\n}\n")
    endif()
  endforeach()
  if(set_BETTER_BYTES)
    set(better "cpu_has_${set_BETTER_BYTES}, ${set_BETTER_BYTES}::map_bytes")
  endif()
  string(TOUPPER ${name} upper)
  target_compile_definitions(${portable} PRIVATE ONNXQUANT_HAS_${upper})
  set(ONNXQUANT_PARTS ${parts} PARENT_SCOPE)
  set(_declarations "${declarations}" PARENT_SCOPE)
  set(_rows "${_rows}    {\"${name}\", cpu_has_${name}, &${set_KERNELS}::kKernels, ${many_rows}, &${name}::kNetwork, \
&${set_VECTORS}::kEncoders, &${set_VECTORS}::kObservers, {${set_BYTES}::map_bytes, ${better}}},\n" PARENT_SCOPE)
endfunction()

# An object library of some sources with the options of the instruction set that is being added.
macro(_onnxquant_part target namespace)
  add_library(${target} OBJECT ${ARGN})
  onnxquant_compile(${target})
  target_include_directories(${target} PRIVATE "${CMAKE_CURRENT_SOURCE_DIR}" "${CMAKE_CURRENT_BINARY_DIR}/generated")
  target_compile_options(${target} PRIVATE ${set_OPTIONS})
  target_compile_definitions(${target} PRIVATE ONNXQUANT_ISA=${namespace} "ONNXQUANT_SIMD_HEADER=\"simd/${set_VECTORS}.h\""
    "ONNXQUANT_DOT_HEADER=\"kernels/dot/${set_DOT}.h\"" "ONNXQUANT_NETWORK_HEADER=\"network/vectors/${set_NETWORK}.h\""
    "ONNXQUANT_CONVOLVE_HEADER=\"network/${set_CONVOLVE}.h\"" ${set_DEFINITIONS})
  if(ONNXQUANT_EMULATE)
    target_compile_definitions(${target} PRIVATE ONNXQUANT_EMULATE)
  endif()
  if(ONNXQUANT_FEWER_KERNELS)
    target_compile_definitions(${target} PRIVATE ONNXQUANT_FEWER_KERNELS)
    if(ONNXQUANT_SANITIZE AND NOT "${namespace}" STREQUAL "scalar")
      # The sources are those of scalar, where undefined behaviour is looked for: with it vectors take twice as long to compile.
      target_compile_options(${target} PRIVATE -fno-sanitize=undefined)
    endif()
  endif()
  list(APPEND parts ${target})
endmacro()

function(_onnxquant_write_table)
  file(CONFIGURE OUTPUT "${CMAKE_CURRENT_BINARY_DIR}/generated/instruction_sets.h" @ONLY CONTENT
"// Generated by cmake/InstructionSets.cmake.
#pragma once

#include \"isa/cpu.h\"
#include \"isa/dispatch.h\"

namespace onnxquant {

@_declarations@
// From the slowest to the fastest.
inline constexpr InstructionSet kInstructionSets[] = {
@_rows@};

}  // namespace onnxquant
")
endfunction()
