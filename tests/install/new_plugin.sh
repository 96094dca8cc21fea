#!/usr/bin/env bash
# From nothing to a transcript through a plugin of one's own: bash new_plugin.sh RECORDING
# Runs in an empty folder, with nuebridge's environment first on the PATH. Nothing that is written is edited.
set -euo pipefail
recording=$1

nuebridge plugins new nuebridge-first --encoder --bridge --decoder --checkpoint-format --registry-file --command --bench-baseline

python -m pip install --quiet --disable-pip-version-check -e "./nuebridge-first[dev]"
nuebridge plugins

(
  cd nuebridge-first
  ruff check .
  ruff format --check .
  python -m mypy
  python -m pytest -q
)

python -m nuebridge_first.examples checkpoints

cat > registry.yaml <<YAML
encoders:
  my-encoder: {component: first.log-mel, source: ./checkpoints/log-mel}
bridges:
  my-bridge: {component: first.gated-linear, options: {factor: 4}}
decoders:
  my-decoder: {component: first.byte-gru, source: ./checkpoints/byte-gru}
YAML
nuebridge registry check registry.yaml

nuebridge compose --encoder my-encoder --bridge my-bridge --decoder my-decoder --output my-model
nuebridge transcribe "$recording" --model ./my-model --max-new-tokens 8 --format json
nuebridge first-loudness "$recording"
