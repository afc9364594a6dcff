#!/usr/bin/env bash
# Trains one experiment with several seeds, one after another, on this machine:
#   launch/seeds.sh alfworld_tiny 0 1 2
# A seed whose summary stands already is left alone.
set -euo pipefail
cd "$(dirname "$0")/.."
config=${1:?usage: launch/seeds.sh CONFIG SEED...}
shift
for seed in "$@"; do
  folder=runs/$config
  [ "$seed" = 0 ] || folder=${folder}_seed$seed
  [ -f "$folder/summary.json" ] || make train CONFIG="$config" SEED="$seed"
done
