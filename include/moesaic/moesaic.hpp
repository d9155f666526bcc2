// The umbrella for .cpp files: every room up to layer/, the host backend included; never io/ or interop/.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <moesaic/base/arena.hpp>
#include <moesaic/base/dtype.hpp>
#include <moesaic/base/macros.hpp>
#include <moesaic/base/packed.hpp>
#include <moesaic/base/status.hpp>
#include <moesaic/base/view.hpp>
#include <moesaic/config/block_config.hpp>
#include <moesaic/config/layers.hpp>
#include <moesaic/config/shapes.hpp>
#include <moesaic/config/weights.hpp>
