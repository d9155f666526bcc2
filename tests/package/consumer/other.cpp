// The second translation unit.
// SPDX-License-Identifier: Apache-2.0
#include <every_header.hpp>

moesaic::status other();
moesaic::status other() { return {}; }
