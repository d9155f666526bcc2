// What nearly every test includes: the compiler reads it once for all files of the same options, which saves half of what a small test costs it.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <algorithm>
#include <array>
#include <bit>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <functional>
#include <limits>
#include <map>
#include <numeric>
#include <set>
#include <sstream>
#include <string>
#include <string_view>
#include <unordered_map>
#include <utility>
#include <vector>

#include <doctest/doctest.h>
#include <moesaic/io/safetensors.hpp>
#include <moesaic/layer/load.hpp>
#include <moesaic/moesaic.hpp>
