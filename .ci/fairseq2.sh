#!/usr/bin/env bash
# nuebridge-fairseq2 in the one environment that fairseq2 0.8.1 runs in: torch 2.9.1 (the build with CUDA, 7 GB installed;
# it runs on the CPU here), transformers 4.57 and the system's libsndfile. `fairseq2.sh install` makes it and stops there.
set -euo pipefail
cd "$(dirname "$0")/.."
venv=.venv-fairseq2

as_root() {
  if [ "$(id -u)" = 0 ]; then "$@"; elif sudo -n true 2>/dev/null; then sudo -n "$@"; else return 1; fi
}

if ! ldconfig -p 2>/dev/null | grep -q 'libsndfile\.so\.1' && command -v apt-get >/dev/null; then
  { as_root apt-get update -qq && as_root apt-get install -y -qq --no-install-recommends libsndfile1; } >/dev/null ||
    { echo "fairseq2 needs libsndfile: apt-get install libsndfile1" >&2; exit 1; }
fi

if [ ! -e "$venv/.installed" ] || [ -n "$(find .ci/constraints-fairseq2.txt pyproject.toml plugins/*/pyproject.toml -newer "$venv/.installed")" ]; then
  echo "installing fairseq2 0.8.1 and torch 2.9.1 into $venv (several gigabytes the first time)"
  [ -x "$venv/bin/python" ] || python3 -m venv "$venv"
  install="$venv/bin/python -m pip install --quiet --disable-pip-version-check -c .ci/constraints-fairseq2.txt"
  $install hatchling editables
  $install --no-build-isolation --no-compile -e . -e plugins/nuebridge-hf -e plugins/nuebridge-bridges -e plugins/nuebridge-fairseq2 \
    datasets hypothesis peft pytest pytest-timeout pytest-xdist tensorboard
  touch "$venv/.installed"
fi
[ "${1:-}" = install ] && exit

"$venv/bin/python" - <<'PY'
import fairseq2, torch, transformers
print(f"fairseq2 {fairseq2.__version__}, torch {torch.__version__}, transformers {transformers.__version__}")
assert fairseq2.__version__ == "0.8.1" and torch.__version__.startswith("2.9.1")
PY

# The plugin's own tests (the conformance suite and a whole integration among them), and the host's from composing to
# transcribing; the rest of the host's run with the same torch and transformers in the older line's stage.
export OMP_NUM_THREADS="${OMP_NUM_THREADS:-1}" HF_HUB_OFFLINE=1 TRANSFORMERS_OFFLINE=1 FAIRSEQ2_NO_PROGRESS=1
exec "$venv/bin/python" -m pytest -q -n 2 --dist loadfile plugins/nuebridge-fairseq2 tests/registry \
  $(ls tests/test_*.py | grep -v -e architecture -e plugins_new -e public_api)
