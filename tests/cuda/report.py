#!/usr/bin/env python3
# Asks ptxas what became of each kernel: nothing spilled or put into local memory, registers that the launch can have, wgmma that runs on while others are issued. Of a .cu file
# also how long nvcc took and how large the machine code is. Run with --selftest to see it find planted faults.
# SPDX-License-Identifier: Apache-2.0
"""usage: report.py --nvcc NVCC [--include DIR]... [--architecture 90a] [--seconds S] [--bytes N] FILE...     .cu files, or .ptx that nvcc made
       report.py --nvcc NVCC --selftest"""
import argparse
import pathlib
import re
import resource
import shutil
import subprocess
import sys
import tempfile

HERE = pathlib.Path(__file__).resolve().parent
INCLUDE = HERE.parent.parent / "include"
REGISTERS = 65536          # of a multiprocessor; given to warps in units of 256, so to threads by eights
# Whose arrays are indexed by what is known only then: sines of double reduce far angles by a table, a routing policy's lists are as long as it chooses.
LOCAL = re.compile(r"moesaic::cuda::(rotate_rows|route_logits|route_fused|route_batch|route_tokens)\b")
LOST = re.compile(r"\(C7\d\d\d\)")   # setmaxnreg is ignored (C7508), wgmma is serialised or waits (C7510 and after)


def plain(symbols):
    """Symbols as a person reads them."""
    tool = shutil.which("c++filt")
    if not tool or not symbols:
        return {symbol: symbol for symbol in symbols}
    done = subprocess.run([tool], input="\n".join(symbols), capture_output=True, text=True)
    return {symbol: re.sub(r"^void moesaic::cuda::entry<(.*)>\(.*\)$", r"\1", text).strip() for symbol, text in zip(symbols, done.stdout.splitlines())}


def bounds(ptx):
    """symbol -> (threads, blocks) of the launch bound."""
    found = {}
    for symbol, directives in re.findall(r"\.entry (\w+)\([^{]*?\)([^{(]*)\{", ptx):
        threads = re.search(r"\.maxntid (\d+)", directives)
        blocks = re.search(r"\.minnctapersm (\d+)", directives)
        found[symbol] = (int(threads.group(1)) if threads else 1024, int(blocks.group(1)) if blocks else 1)
    return found


def problems_of(ptx, said):
    """Sentences about what ptxas said of a PTX text, and how many kernels it holds."""
    launch = bounds(ptx)
    kernels = dict(re.findall(r"Compiling entry function '(\w+)' for .*?\n((?:(?!.*Compiling entry function).*\n)*)", said))
    name = plain(sorted(set(kernels) | set(launch)))
    found = [f"{name[symbol]}: ptxas says nothing of it" for symbol in launch if symbol not in kernels]
    for symbol, text in kernels.items():
        spilled = re.search(r"(\d+) bytes stack frame, (\d+) bytes spill stores, (\d+) bytes spill loads", text)
        registers = re.search(r"Used (\d+) registers", text)
        if not spilled or not registers or symbol not in launch:
            found.append(f"{name[symbol]}: ptxas's report is not understood:\n{text}")
            continue
        frame, stored, loaded = map(int, spilled.groups())
        if stored or loaded:
            found.append(f"{name[symbol]}: {stored} bytes of spilled registers are stored and {loaded} loaded")
        elif frame and not LOCAL.search(name[symbol]):
            found.append(f"{name[symbol]}: {frame} bytes of local memory, where an array is indexed by what the compiler does not know")
        threads, blocks = launch[symbol]
        used, most = -(-int(registers.group(1)) // 8) * 8, REGISTERS // (-(-threads // 128) * 128 * blocks)
        if used > most:
            found.append(f"{name[symbol]}: {used} registers a thread; {blocks} blocks of {threads} threads have {most}")
    for line in said.splitlines():
        if LOST.search(line) or "warning" in line.lower():
            symbol = re.search(r"function '(\w+)'", line)
            found.append(f"{name.get(symbol.group(1), symbol.group(1)) if symbol else 'ptxas'}: {line.strip()}")
    return found, len(kernels)


def seconds():
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


def look_at(file, given, folder):
    """(sentences, number of kernels, what was measured) of one file."""
    file, work = pathlib.Path(file), pathlib.Path(folder)
    virtual, real = f"compute_{given.architecture}", f"sm_{given.architecture}"
    if file.suffix == ".ptx":
        ptx, cubin = file, work / "ptx.cubin"
        top = re.search(r"TOP=(.+)", subprocess.run([given.nvcc, "--dryrun", "-x", "cu", "/dev/null"], capture_output=True, text=True).stderr).group(1)
        compiled = subprocess.run([pathlib.Path(top, "bin", "ptxas"), "-v", f"-arch={real}", ptx, "-o", cubin], capture_output=True, text=True)
        took = None
    else:
        before = seconds()
        compiled = subprocess.run([given.nvcc, "-std=c++20", "-O2", *(f"-I{i}" for i in [INCLUDE, *given.include]), "-gencode", f"arch={virtual},code={real}",
                                   "-Xptxas", "-v", "--keep", "--keep-dir", folder, "-c", "-o", work / "object.o", file], capture_output=True, text=True)
        took = seconds() - before
        ptx, cubin = next(work.glob("*.ptx"), None), next(work.glob("*.cubin"), None)
    if compiled.returncode != 0 or not cubin or not cubin.is_file():
        return [f"{file.name}: does not compile:\n{compiled.stderr}"], 0, ""
    found, count = problems_of(ptx.read_text(), compiled.stderr)
    size = cubin.stat().st_size
    if took is not None and given.seconds and took > given.seconds:
        found.append(f"{file.name}: nvcc took {took:.1f} s of one core; at most {given.seconds:.0f}")
    if given.bytes and size > given.bytes:
        found.append(f"{file.name}: {size} bytes of machine code; at most {given.bytes}")
    if count == 0:
        found.append(f"{file.name}: holds no kernel")
    return found, count, f"{size} bytes" + (f", {took:.1f} s of nvcc" if took is not None else "")


PLANTED = """
#include <moesaic/cuda/launch.cuh>
namespace planted {
using namespace moesaic;
template <int Blocks>
struct crowded {   // a hundred values alive at once, and room for 32 registers a thread, or for all
  static constexpr int threads = 256;
  static constexpr int blocks = Blocks;
  static constexpr cuda::rung needs = cuda::rung::sm90;
  struct params { float* y; };
  struct shared {};
  MOESAIC_DEVICE void operator()(params const& p) const {
    float x[100];
    MOESAIC_UNROLL
    for (int i = 0; i < 100; ++i) x[i] = p.y[i * 1024 + device::thread_id()];
    device::block_sync();
    MOESAIC_UNROLL
    for (int i = 0; i < 100; ++i) p.y[(99 - i) * 1024 + device::thread_id()] = x[i] * x[(i * 7) % 100];
  }
};
}  // namespace planted
template moesaic::status moesaic::cuda::launch<planted::crowded<BLOCKS>>(moesaic::cuda::stream&, moesaic::cuda::grid const&, planted::crowded<BLOCKS>::params const&);
"""


def selftest(given):
    """A kernel that spills, limits that are missed, and reports that say what ptxas says of bad kernels; a sound kernel has none."""
    expected = {"spilled registers": (8, {}), "nvcc took": (1, {"seconds": 0.001}), "machine code; at most": (1, {"bytes": 16}), "": (1, {})}
    for sentence, (blocks, limits) in expected.items():
        with tempfile.TemporaryDirectory() as folder:
            source = pathlib.Path(folder, "planted.cu")
            source.write_text(PLANTED.replace("BLOCKS", str(blocks)))
            found, count, _ = look_at(source, argparse.Namespace(**{**vars(given), "seconds": 0, "bytes": 0, **limits}), folder)
        named = not sentence or any(sentence in line for line in found)
        if count != 1 or not named or len(found) != bool(sentence) or (blocks == 8 and "planted::crowded<8>" not in found[0]):
            sys.exit(f"report.py: planted '{sentence}', found {found}")
    entry = ".visible .entry kernel(\n\t.param .b8 p[4]\n)\n.maxntid 256, 1, 1\n.minnctapersm 2\n{\n}\n"
    head = "ptxas info    : Compiling entry function 'kernel' for 'sm_90a'\n"
    numbers = "    0 bytes stack frame, 0 bytes spill stores, 0 bytes spill loads\nptxas info    : Used %d registers\n"
    serial = "ptxas info    : (C7510) Potential Performance Loss: wgmma.mma_async instructions are serialized in function 'kernel'\n"
    for sentence, said in {"": head + numbers % 128, "136 registers a thread": head + numbers % 129, "C7510": serial + head + numbers % 90,
                           "16 bytes of local memory": head + numbers.replace("0 bytes stack", "16 bytes stack") % 90,
                           "says nothing": "", "not understood": head + "no numbers\n"}.items():
        found, _ = problems_of(entry, said)
        if len(found) != bool(sentence) or (sentence and sentence not in found[0]):
            sys.exit(f"report.py: planted '{sentence}' in a report, found {found}")
    print("report: 8 planted faults found")


def main():
    arguments = argparse.ArgumentParser(usage=__doc__)
    arguments.add_argument("--nvcc", required=True)
    arguments.add_argument("--include", action="append", default=[])
    arguments.add_argument("--architecture", default="90a")
    arguments.add_argument("--seconds", type=float, default=0)
    arguments.add_argument("--bytes", type=int, default=0)
    arguments.add_argument("--selftest", action="store_true")
    arguments.add_argument("files", nargs="*")
    given = arguments.parse_args()
    if given.selftest:
        selftest(given)
        return
    bad = not given.files
    for file in given.files:
        with tempfile.TemporaryDirectory() as folder:
            found, count, measured = look_at(file, given, folder)
        print("\n".join([*found, f"{pathlib.Path(file).name}: {count} kernels, {measured}, {len(found)} problems"]), flush=True)
        bad |= bool(found)
    sys.exit(bad)


if __name__ == "__main__":
    main()
