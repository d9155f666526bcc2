// Ends what target_avx2.inl and its like began.
// SPDX-License-Identifier: Apache-2.0

#if defined(__clang__)
#pragma clang attribute pop
#else
#pragma GCC pop_options
#endif
