#!/usr/bin/env python3
# Compiles wrong uses of the CUDA side and looks for the sentence that answers each; and the corrected twin of each, which must compile.
# SPDX-License-Identifier: Apache-2.0
"""usage: refusals.py NVCC"""
import pathlib
import subprocess
import sys

INCLUDE = pathlib.Path(__file__).resolve().parent.parent.parent / "include"
KERNEL = """#include <moesaic/cuda/launch.cuh>
using namespace moesaic;
struct wrong {
  static constexpr int threads = 128;
  static constexpr cuda::rung needs = cuda::rung::%(needs)s;
  struct params { float* y; char more[%(more)s]; };
  struct shared {};
  MOESAIC_DEVICE void operator()(params const& p) const { %(body)s }
};
template status cuda::launch<wrong>(cuda::stream&, cuda::grid const&, wrong::params const&);
"""
SOUND = {"needs": "sm90", "more": "64", "body": "p.y[device::thread_id()] = 1;", "architecture": "90a"}
WGMMA = "mma_accumulator<dtype::%s> d[%d]; device::wgmma<dtype::%s, %d%s>(d, 0, 0, false); p.y[0] = static_cast<float>(d[0]);"


def wgmma(kind, n, rest=""):
    return ("device::" + WGMMA) % (kind, n // 2, kind, n, rest)


CASES = [   # the sentence, what is wrong, what is right instead
    ("compile for 90a-real", {"architecture": "90"}, {}),
    ("must fit the 4 KiB that a launch carries", {"more": "4096"}, {"more": "4000"}),
    ("N of wgmma is a multiple of 8, 8 to 256", {"body": wgmma("bf16", 12)}, {"body": wgmma("bf16", 16)}),
    ("N of wgmma over int8 is a multiple of 16", {"body": wgmma("int8", 40)}, {"body": wgmma("int8", 48)}),
    ("operands of 8 bits lie along K", {"body": wgmma("e4m3", 64, ", device::major::mn")}, {"body": wgmma("bf16", 64, ", device::major::mn")}),
    ("cp_async copies 4, 8 or 16 bytes", {"body": "device::cp_async<12>(p.y, p.y);"}, {"body": "device::cp_async<8>(p.y, p.y);"}),
]


def compiled(nvcc, change):
    given = {**SOUND, **change}
    code = "sm_" + given["architecture"]
    command = [nvcc, "-std=c++20", f"-I{INCLUDE}", "-gencode", f"arch=compute_{given['architecture']},code={code}", "-cubin", "-o", "/dev/null", "-x", "cu", "-"]
    return subprocess.run(command, input=KERNEL % given, capture_output=True, text=True)


def main(nvcc):
    found = []
    for sentence, wrong, right in CASES:
        refused, accepted = compiled(nvcc, wrong), compiled(nvcc, right)
        if refused.returncode == 0 or sentence not in refused.stderr:
            found.append(f"`{sentence}` does not answer {wrong}:\n{refused.stderr}")
        if accepted.returncode != 0:
            found.append(f"the corrected twin of `{sentence}` does not compile:\n{accepted.stderr}")
    print("\n".join([*found, f"refusals: {len(CASES)} wrong uses, {len(found)} problems"]))
    sys.exit(bool(found))


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    main(sys.argv[1])
