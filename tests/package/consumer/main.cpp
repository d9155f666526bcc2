// One of two translation units that include every header: what both define must be one thing to the linker.
// SPDX-License-Identifier: Apache-2.0
#include <every_header.hpp>

moesaic::status other();

int main() { return other() ? 0 : 1; }
