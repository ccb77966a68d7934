// The vectors of the instruction set that this source is compiled for.
#pragma once

#include "simd/target.h"
// The first defines Floats, Ints, Codes, Mask and Doubles of kLanes lanes.
#include ONNXQUANT_SIMD_HEADER
#include "simd/codes.h"
#include "simd/sixteen.h"
