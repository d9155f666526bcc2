// The CPU backend: every op that layers call with a host::pool as their first argument.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <moesaic/host/attention.hpp>
#include <moesaic/host/combine.hpp>
#include <moesaic/host/cosine.hpp>
#include <moesaic/host/embedding.hpp>
#include <moesaic/host/ffn.hpp>
#include <moesaic/host/heads.hpp>
#include <moesaic/host/latent.hpp>
#include <moesaic/host/linear.hpp>
#include <moesaic/host/logits.hpp>
#include <moesaic/host/memory.hpp>
#include <moesaic/host/norm.hpp>
#include <moesaic/host/quantized.hpp>
#include <moesaic/host/rotary.hpp>
#include <moesaic/host/route.hpp>
#include <moesaic/host/set_up.hpp>
#include <moesaic/host/soft_moe.hpp>
#include <moesaic/host/special_experts.hpp>
