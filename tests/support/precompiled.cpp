// Nothing of its own: precompiled.hpp is compiled with it.
// SPDX-License-Identifier: Apache-2.0
