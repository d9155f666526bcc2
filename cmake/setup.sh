# Sourced by tests/run.sh and examples/demo.sh. setup PURPOSE... installs those packages of cmake/packages.txt that are missing.
# SPDX-License-Identifier: Apache-2.0

present() {  # a command, or a file pattern
  case $1 in
    /*) compgen -G "$1" >/dev/null ;;
    *) command -v "$1" >/dev/null ;;
  esac
}

# missing PURPOSE...: names of packages, one a line
missing() {
  local purpose package proof
  while read -r purpose package proof; do
    [[ " $* " == *" $purpose "* ]] && ! present "$proof" && echo "$package"
  done < <(grep -v '^#' "$(dirname "${BASH_SOURCE[0]}")/packages.txt")
  return 0
}

patience=(-o Acquire::Retries=3 -o Acquire::http::Timeout=60)   # a mirror that hangs must not hold a test run

setup() {
  local packages as_root=()
  mapfile -t packages < <(missing "$@")
  [ ${#packages[@]} -gt 0 ] || return 0
  if ! command -v apt-get >/dev/null; then
    echo "This machine has no apt-get. Please install what these Debian packages hold, and run again: ${packages[*]}" >&2
    return 1
  fi
  if [ "$(id -u)" != 0 ]; then
    command -v sudo >/dev/null || { echo "Please run as root, or: apt-get install ${packages[*]}" >&2; return 1; }
    as_root=(sudo)
  fi
  echo "== installing: ${packages[*]}"
  "${as_root[@]}" apt-get "${patience[@]}" update -qq </dev/null &&
    "${as_root[@]}" env DEBIAN_FRONTEND=noninteractive apt-get "${patience[@]}" install -y -qq --no-install-recommends "${packages[@]}" </dev/null >/dev/null
}

# find_nvcc FOLDER: sets nvcc to one of CUDA 13 or later: the system's, else that of NVIDIA's packages on PyPI, which are taken once into FOLDER (370 MB).
find_nvcc() {
  local folder=$1 found
  for found in "$(command -v nvcc)" "${CUDA_PATH:-/usr/local/cuda}/bin/nvcc" "$folder"/lib/python3*/site-packages/nvidia/cu13/bin/nvcc; do
    if [ -x "$found" ] && "$found" --version | grep -Eq 'release (1[3-9]|[2-9][0-9])'; then
      nvcc=$found
      return
    fi
  done
  if [ -n "$folder" ] && [ ! -e "$folder" ]; then
    echo "== no nvcc of CUDA 13 or later here: taking NVIDIA's packages from PyPI into $folder"
    setup nvcc && rm -rf "$folder.part" && python3 -m venv "$folder.part" </dev/null &&
      "$folder.part/bin/python" -m pip install --quiet --disable-pip-version-check --retries 5 \
        nvidia-cuda-nvcc==13.5.* nvidia-cuda-crt==13.5.* nvidia-cuda-runtime==13.5.* nvidia-cuda-cccl==13.3.* nvidia-nvvm==13.5.* </dev/null &&
      mv "$folder.part" "$folder" && find_nvcc "$folder" && return
  fi
  echo "No nvcc of CUDA 13 or later was found, and PyPI's could not be had. Install CUDA, or leave its tests out: --without-cuda" >&2
  return 1
}
