#!/bin/bash
# The first hour on a machine with a GPU, in parts of less than ten minutes each.
#
#   benchmarks/gpu_hour.sh [PART …]   runs these parts, or all that have not passed yet
#   benchmarks/gpu_hour.sh --list     names the parts
#   benchmarks/gpu_hour.sh --help     prints this
#
# A part's log begins with what it ran and ends with how long it took and its exit status; the line that is
# printed is kept in summary.txt. A part that fails does not stop the others; the exit status is 1 then.
# A part that has passed runs again only if it is named.
#
# LOGS        the folder of the logs [runs/gpu_hour]
# PYTHON      the interpreter [.venv/bin/python]
# LIMIT_S     seconds after which a part is ended [540]
# STEP_FLAGS  flags of gpu_step [--shapes 1.5b]; to try it without a GPU: --device cpu --shapes tiny --budgets 512
# WHOLE_FLAGS flags of the trainer in parts "whole", "overlap" and "mps", such as --ppo.token_budget 8192 []
# PORT        of the servers [8123]
# shellcheck disable=SC2329  # parts are called by their names
set -u

LOGS=${LOGS:-runs/gpu_hour}
PYTHON=${PYTHON:-.venv/bin/python}
LIMIT_S=${LIMIT_S:-540}
STEP_FLAGS=${STEP_FLAGS:---shapes 1.5b}
WHOLE_FLAGS=${WHOLE_FLAGS:-}
PORT=${PORT:-8123}
TINY=models/tiny-base
SMOLLM2=models/smollm2-135m-instruct
RANDOM_1_5B=models/random-1.5b
PARTS="doctor server contract demo smollm2 step generate whole overlap mps restart memory pair"

# --- what the parts do, each in a process of its own -------------------------------------------------

say() {
  case $1 in
    doctor) echo "the doctor of the 1.5B preset, without a server" ;;
    server) echo "a server with the tiny model: how long it takes to answer, and one question to it" ;;
    contract) echo "the tests of the HTTP interface, with a fake engine and with a real server" ;;
    demo) echo "make demo without the installation" ;;
    smollm2) echo "SFT and ten PPO steps of SmolLM2, if $SMOLLM2 is there (scripts/real_model.py)" ;;
    step) echo "an optimizer step at the 1.5B preset's shape (benchmarks.trainer.gpu_step); run it again for the parts that are left" ;;
    generate) echo "where generation at that shape spends its time, from LLM.generate to the server (benchmarks.server.generation_parts)" ;;
    whole) echo "three whole steps at the 1.5B preset's shape, with random weights; server and trainer take turns" ;;
    overlap) echo "five such steps with generation during the update (rollout.max_staleness 1)" ;;
    mps) echo "the same under NVIDIA's MPS, if nvidia-cuda-mps-control is there" ;;
    restart) echo "the server killed with -9 in the middle of a run, and started again" ;;
    memory) echo "tests of a step on a GPU, also when it runs out of memory (pytest -m gpu)" ;;
    pair) echo "tests of server and trainer on one GPU (pytest -m gpu)" ;;
    *) return 1 ;;
  esac
}

part_doctor() {
  [ -z "$HAS_GPU" ] || random_model || return
  "$PYTHON" -m trainer doctor --config deploy/configs/gsm8k_a100.toml --no-ask_server \
    ${HAS_GPU:+--policy.base_model "$RANDOM_1_5B"}
}

part_server() {
  # shellcheck disable=SC2086
  tiny_model && start_server "$TINY" $SHARE --config deploy/configs/demo.toml && answers &&
    "$PYTHON" -m trainer sample "Ada has 12 pens and buys 7 more. How many?" --server.url "http://127.0.0.1:$PORT" --gold 19
}

part_contract() {
  "$PYTHON" -m pytest -q tests/contract tests/integration/test_http_surface.py
}

part_demo() {
  "$PYTHON" -m trainer demo --port "$PORT"
}

part_smollm2() {
  if [ ! -d "$SMOLLM2" ]; then
    echo "skipped: there is no $SMOLLM2; $PYTHON scripts/real_model.py --dtype bfloat16 makes it"
    return 0
  fi
  config="--config examples/smollm2.toml"
  # shellcheck disable=SC2086
  "$PYTHON" -m trainer sft $config --policy.adapter null --output "$WORK/sft" &&
    start_server "$SMOLLM2" $SHARE $config && answers &&
    "$PYTHON" -m trainer train $config --server.url "http://127.0.0.1:$PORT" --policy.adapter "$WORK/sft" \
      --run.folder "$WORK/run" --run.num_steps 10
}

part_step() {
  # shellcheck disable=SC2086
  "$PYTHON" -m benchmarks.trainer.gpu_step $STEP_FLAGS --results "$LOGS/gpu_step.jsonl" --limit_s "$((LIMIT_S - 30))"
}

part_generate() {
  [ -n "$HAS_GPU" ] || { echo "skipped: no GPU"; return 0; }
  random_model && "$PYTHON" -m benchmarks.server.generation_parts --model "$RANDOM_1_5B"
}

part_whole() {
  whole_steps 0 3
}

part_overlap() {
  whole_steps 1 5
}

part_mps() {
  [ -n "$HAS_GPU" ] || { echo "skipped: no GPU"; return 0; }
  command -v nvidia-cuda-mps-control >/dev/null || { echo "skipped: there is no nvidia-cuda-mps-control"; return 0; }
  mkdir "$WORK/mps" && in_mps nvidia-cuda-mps-control -d || return
  in_mps whole_steps 1 5
}

# Runs a command so that its GPU work and that of its children go through the part's MPS server.
in_mps() {
  folder=$(realpath "$WORK/mps")
  CUDA_MPS_PIPE_DIRECTORY=$folder CUDA_MPS_LOG_DIRECTORY=$folder "$@"
}

# Runs $2 steps at the 1.5B preset's shape with a server of their own and rollout.max_staleness $1.
whole_steps() {
  [ -n "$HAS_GPU" ] || { echo "skipped: no GPU"; return 0; }
  config="--config deploy/configs/gsm8k_a100.toml" run=$WORK/run
  random_model || return
  # shellcheck disable=SC2086
  start_server "$RANDOM_1_5B" $config && answers || return
  # Rounding moves the sharp logits of random weights by more than a real model's.
  # shellcheck disable=SC2086
  "$PYTHON" -m trainer train $config --policy.base_model "$RANDOM_1_5B" --server.url "http://127.0.0.1:$PORT" \
    --data.source word-problems --data.evaluation_source word-problems --rollout.prompt_format plain \
    --rollout.max_tokens 256 --rollout.max_staleness "$1" --ppo.critic_warmup_steps 0 \
    --ppo.max_logprob_mismatch 0.5 $WHOLE_FLAGS \
    --run.folder "$run" --run.num_steps "$2" --verbose && cp "$run/metrics.jsonl" "$LOGS/$PART.jsonl"
}

part_restart() {
  config="--config deploy/configs/demo.toml" run=$WORK/run
  # shellcheck disable=SC2086
  tiny_model && start_server "$TINY" $SHARE $config && answers || return
  # shellcheck disable=SC2086
  "$PYTHON" -m trainer train $config --server.url "http://127.0.0.1:$PORT" --run.folder "$run" &
  trainer=$!
  # shellcheck disable=SC2086
  wait_for_steps 3 && survives_a_kill "$TINY" $SHARE $config
}

part_memory() {
  "$PYTHON" -m pytest -v -m gpu tests/gpu/test_step.py
}

part_pair() {
  "$PYTHON" -m pytest -v -m gpu tests/gpu/test_pair.py
}

# Waits until the run has $1 steps; fails if it ends before that.
wait_for_steps() {
  { set +x; } 2>/dev/null
  until [ "$(cat "$run/metrics.jsonl" 2>/dev/null | wc -l)" -ge "$1" ]; do
    kill -0 "$trainer" || return
    sleep 0.2
  done
  set -x
}

# Kills the server of a run with -9, starts it again with these arguments, and waits for the end of the run.
survives_a_kill() {
  kill -s KILL -- "-$server"
  echo "server killed after $(wc -l <"$run/metrics.jsonl") steps"
  start_server "$@" && answers && wait "$trainer" &&
    echo "the run went on to $(wc -l <"$run/metrics.jsonl") steps"
}

random_model() {
  "$PYTHON" -m benchmarks.random_model --shape 1.5b --output "$RANDOM_1_5B" --device cuda
}

tiny_model() {
  [ -d "$TINY" ] || "$PYTHON" -m trainer tiny-model --output "$TINY"
}

# Starts a server with its state in the part's folder; its process group is $server.
start_server() {
  model=$1
  shift
  setsid "$PYTHON" -m inference_server --model "$model" --port "$PORT" --state-dir "$WORK/state" "$@" \
    >>"$WORK/server.log" 2>&1 &
  server=$!
  echo "$server" >>"$WORK/groups"
}

answers() {
  started=$SECONDS
  until curl -sf --noproxy '*' -o "$WORK/health" "http://127.0.0.1:$PORT/health"; do
    kill -0 "$server" || { tail -n 30 "$WORK/server.log"; return 1; }
    sleep 0.5
  done
  echo "the server answers after $((SECONDS - started)) s"
}

# Ends the servers of a part, however the part ended.
end_servers() {
  [ -f "$WORK/groups" ] || return 0
  while read -r group; do
    kill -s TERM -- "-$group" 2>/dev/null && sleep 2
    kill -s KILL -- "-$group" 2>/dev/null
  done <"$WORK/groups"
  rm "$WORK/groups"
}

end_mps() {
  [ -d "$WORK/mps" ] || return 0
  echo quit | in_mps timeout 20 nvidia-cuda-mps-control >>"$WORK/mps/quit.log" 2>&1
}

# --- running them ------------------------------------------------------------------------------------

# Runs one part, and prints its line.
run_part() {
  part=$1 log=$LOGS/$1.log
  WORK=$(mktemp -d "$LOGS/$part.XXXXXX")
  export WORK
  started=$SECONDS
  { echo "# $part: $(say "$part")"; date; } >"$log"
  timeout --kill-after=20 "$LIMIT_S" "$PWD/benchmarks/gpu_hour.sh" --do "$part" >>"$log" 2>&1 &
  RUNNING=$!
  wait "$RUNNING"
  code=$?
  end_servers
  end_mps
  took_s=$((SECONDS - started))
  case $code in 0) word=passed ;; 124 | 137) word="ended after $LIMIT_S s" ;; *) word=FAILED ;; esac
  if [ "$code" = 0 ] && grep -q "^skipped: " "$log"; then word=skipped; fi
  if [ "$code" != 0 ] && [ -f "$WORK/server.log" ]; then
    { echo "# the end of $WORK/server.log:"; tail -n 40 "$WORK/server.log"; } >>"$log"
  fi
  echo "# exit status $code after $took_s s" >>"$log"
  line=$(printf '%-9s %-8s %4d s  exit %d  %s' "$part" "$word" "$took_s" "$code" "$log")
  echo "$line" | tee -a "$LOGS/summary.txt"
  return "$code"
}

passed() {
  tail -n 1 "$LOGS/$1.log" 2>/dev/null | grep -q "^# exit status 0 " && ! grep -q "^skipped: " "$LOGS/$1.log"
}

case ${1:-} in
  --help | -h) sed -n '2,/^# shellcheck/{/^# shellcheck/d;s/^# \{0,1\}//;p}' "$0"; exit 0 ;;
  --list) for part in $PARTS; do printf '%-9s %s\n' "$part" "$(say "$part")"; done; exit 0 ;;
esac
cd "$(dirname "$0")/.." || exit 2
HAS_GPU=$(nvidia-smi -L 2>/dev/null)
# Leaves the trainer room on the GPU, whatever share the configuration gives the server.
SHARE=${HAS_GPU:+--gpu-memory-utilization 0.4}
PYTHONPATH=$PWD${PYTHONPATH:+:$PYTHONPATH}
export LOGS PYTHON LIMIT_S STEP_FLAGS WHOLE_FLAGS PORT PYTHONPATH
if [ "${1:-}" = --do ]; then
  PART=$2
  set -x
  "part_$PART"
  exit
fi
WORK=
trap '[ -z "$WORK" ] || { kill "$RUNNING"; wait "$RUNNING"; end_servers; end_mps; }; exit 130' INT TERM
for part in "$@"; do
  say "$part" >/dev/null || { echo "gpu_hour: no part $part; --list names them" >&2; exit 2; }
done
command -v curl >/dev/null || { echo "gpu_hour: there is no curl, which is needed to ask the servers" >&2; exit 2; }
mkdir -p "$LOGS" || exit 2
failed=0
if [ $# = 0 ]; then
  for part in $PARTS; do
    passed "$part" || run_part "$part" || failed=1
  done
else
  for part in "$@"; do run_part "$part" || failed=1; done
fi
exit $failed
