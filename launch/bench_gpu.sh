#!/usr/bin/env bash
# Everything that is claimed of one large GPU, in one command:
#   python -m experiments.make_games --output=games   # where alfworld is
#   launch/bench_gpu.sh OUT [STEP...]                 # on the GPU machine
# Writes OUT/<step>.txt; the last line of each is a JSON object. Steps are
# independent, so that a time limit costs the last ones alone.
set -uo pipefail
cd "$(dirname "$0")/.."
out=${1:?usage: launch/bench_gpu.sh OUT [STEP...]}
shift
mkdir -p "$out"
python=${PYTHON:-python3}
big='--preset=1.5b --dtype=bfloat16'

check() {  # packed = unpacked, own attention = plain, batcher = lockstep
  $python -m experiments.bench.check_device $big --layers=4 --json
}
decode() {  # a step at batch 128 with 1k context, beside transformers
  $python -m experiments.bench.generate $big --batch=128 --prompt=1024 \
    --reply=128 --chunk=128 --prefill=16 --baseline=transformers --json
}
batcher() {  # episodes of five turns, replies of unequal length
  $python -m experiments.bench.generate $big --batch=128 --prompt=1024 \
    --reply=512 --chunk=16 --prefill=8 --turns=5 --repeats=1 --json
}
train() {  # packed 4k rows, beside transformers
  $python -m experiments.bench.train $big --remat=full --row_tokens=4096 \
    --rows=2 --micro_batches=4 --reply=100 --median_prompt=1000 \
    --baseline=transformers --repeats=3 --json
}
large() {  # 7B: decodes, and takes a step with adapters
  $python -m experiments.bench.generate --preset=7b --dtype=bfloat16 \
    --batch=64 --prompt=1024 --reply=64 --prefill=8 --repeats=2 --json
  $python -m experiments.bench.train --preset=7b --dtype=bfloat16 \
    --remat=full --row_tokens=4096 --rows=1 --micro_batches=2 --reply=100 \
    --median_prompt=1000 --lora_rank=32 --repeats=3 --json
}
iteration() {  # the paper's cell: 16 x 8 episodes of 5 turns
  $python -m experiments.bench.iteration --games=games --json
}

for step in "${@:-check decode batcher train large iteration}"; do
  for name in $step; do
    echo "== $name"
    "$name" 2>&1 | tee "$out/$name.txt" | tail -n 40
  done
done
