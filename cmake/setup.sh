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
