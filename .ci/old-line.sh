#!/usr/bin/env bash
# The golden fixture and the plugins' tests under the oldest libraries that the pyproject files allow:
# transformers 4.57 with torch 2.9.1 (the build with CUDA, several gigabytes; it runs on the CPU here).
set -euo pipefail
cd "$(dirname "$0")/.."
venv=.venv-old

if [ ! -e "$venv/.installed" ] || [ -n "$(find .ci/constraints-old.txt pyproject.toml plugins/*/pyproject.toml -newer "$venv/.installed")" ]; then
  echo "installing transformers 4.57 and torch 2.9.1 into $venv"
  [ -x "$venv/bin/python" ] || python3 -m venv "$venv"
  install="$venv/bin/python -m pip install --quiet --disable-pip-version-check -c .ci/constraints-old.txt"
  $install hatchling editables
  $install --no-build-isolation --no-compile -e . -e plugins/nuebridge-hf -e plugins/nuebridge-bridges -e plugins/nuebridge-tiny \
    datasets hypothesis peft pytest pytest-timeout pytest-xdist tensorboard
  touch "$venv/.installed"
fi

"$venv/bin/python" - <<'EOF'
import torch, transformers
print(f"torch {torch.__version__}, transformers {transformers.__version__}")
assert torch.__version__.startswith("2.9.1") and transformers.__version__.startswith("4.57.")
EOF

# Not the demo (gradio needs huggingface_hub 1 or later), nor what only looks at the source or the documents.
export OMP_NUM_THREADS="${OMP_NUM_THREADS:-1}" HF_HUB_OFFLINE=1 TRANSFORMERS_OFFLINE=1

# What is saved under either line loads under the other, with the same outputs.
exchange=$(mktemp -d)
trap 'rm -rf "$exchange"' EXIT
.venv/bin/python -m tests.conformance.exchange write "$exchange/new"
"$venv/bin/python" -m tests.conformance.exchange read "$exchange/new"
"$venv/bin/python" -m tests.conformance.exchange write "$exchange/old"
.venv/bin/python -m tests.conformance.exchange read "$exchange/old"

"$venv/bin/python" -m pytest -q -n 2 --dist loadfile tests plugins \
  --ignore=tests/acceptance --ignore=tests/docs --ignore=tests/install \
  --ignore=tests/test_architecture.py
