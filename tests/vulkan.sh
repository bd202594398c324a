#!/usr/bin/env bash
# The tests of tests/device on Mesa's software driver of Vulkan: a device with buffers and arithmetic of its own, on any
# machine. Debian 12 or 13; installs packages where it is root. llama.cpp is compiled once, into build/vulkan.
#
#     tests/vulkan.sh .venv/bin/python [pytest's arguments]
set -euo pipefail
cd "$(dirname "$0")/.."
python=$(realpath -s "$1")
shift
build=$PWD/build/vulkan
mkdir -p "$build"

packages=(mesa-vulkan-drivers glslc libvulkan-dev spirv-headers)
if ! dpkg-query -W "${packages[@]}" >/dev/null 2>&1; then
    [ "$(id -u)" = 0 ] || { echo "error: as root: apt-get install ${packages[*]}" >&2; exit 1; }
    apt-get update && apt-get install -y --no-install-recommends "${packages[@]}"
fi

# Debian 12's headers are older than what llama.cpp names; those of Debian 13 are unpacked aside
headers=/usr/include
if ! grep -q LayerSettingEXT $headers/vulkan/vulkan_structs.hpp; then
    headers=$build/headers/usr/include
    deb=$build/libvulkan-dev.deb
    if [ ! -e "$headers/vulkan/vulkan.hpp" ]; then
        curl -sSf -o "$deb" http://deb.debian.org/debian/pool/main/v/vulkan-loader/libvulkan-dev_1.4.309.0-1_amd64.deb
        echo "8d329d465e16168afff58b1bd0dd6db46aac2cc3f56054a481b25a04e90b345a  $deb" | sha256sum --check --quiet
        dpkg-deb -x "$deb" "$build/headers"
    fi
fi

llama=$(grep -om1 'llama-cpp-python==[0-9.]*' pyproject.toml)
if ! ls "$build/wheels/llama_cpp_python-${llama#*==}"-*.whl >/dev/null 2>&1; then
    CMAKE_ARGS="-DGGML_VULKAN=on -DVulkan_INCLUDE_DIR=$headers" \
        "$python" -m pip wheel --no-deps --no-cache-dir --no-binary llama-cpp-python -w "$build/wheels" "$llama"
fi

# on top of the packages of the other environment, as make sanitize has it
env=$build/env
rm -rf "$env"
"$python" -m venv "$env"
"$env/bin/pip" install -q --no-deps "$build/wheels/llama_cpp_python-${llama#*==}"-*.whl # before the other's is in sight
purelib='import sysconfig; print(sysconfig.get_path("purelib"))'
"$python" -c "$purelib" > "$("$env/bin/python" -c "$purelib")/others.pth"
PATH="$(dirname "$python"):$PATH" "$env/bin/pip" install -q --no-deps --no-build-isolation \
    --config-settings=build-dir="$build/core" .

# from a directory where Python does not find the sources instead
cd "$build"
driver=$(echo /usr/share/vulkan/icd.d/lvp_icd*.json) # Debian 12 has the architecture in its name
export GGML_VK_VISIBLE_DEVICES=0 VK_ICD_FILENAMES=$driver VK_DRIVER_FILES=$driver
export AUTODECO_DEVICE=Vulkan0 OMP_NUM_THREADS=1
unset PYTHONPATH

# Before Mesa 25 a thread of the driver dies of valid use in every other run (docs/devices.md). What ends with a signal is run
# again there, each engine in a process of its own, and it is said; a failure is not.
mesa=$(dpkg-query -W -f '${Version}' mesa-vulkan-drivers)
attempts=1
if [ "${mesa%%.*}" -lt 25 ]; then
    attempts=6
    export GGML_VK_DISABLE_ASYNC=1 # rarer with it
fi
echo "vulkan.sh: Mesa $mesa" >&2
failed=0
try() {
    local status
    for ((i = 0; i < attempts; i++)); do
        status=0
        "$env/bin/python" -m pytest -q "$@" || status=$?
        [ $status -ge 128 ] || break
        echo "vulkan.sh: died of signal $((status - 128))" >&2
    done
    [ $status = 0 ] || failed=1
}
tests=$OLDPWD/tests/device/test_device.py
try "$tests" -k "not engine_gives and not features" "$@"
for n in 1 4 16; do
    try "$tests::test_an_engine_gives_what_it_gives_on_the_cpu[$n]" "$@"
done
try "$tests::test_features" "$@"
exit $failed
