#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# From a clean clone to a conversation:
#
#   ./run.sh                  install what is missing, build, start a cluster, launch smollm2, chat
#   ./run.sh --model story    the small model inside the program; needs no network
#   ./run.sh stop             stop everything
#
# Without a terminal it answers one prompt, says how to go on, and exits 0.
# QUIRE_HOME (default ~/.quire) keeps state and models, QUIRE_PORT (default 9997) is the port.
set -euo pipefail
cd "$(dirname "$0")"

export QUIRE_HOME=${QUIRE_HOME:-$HOME/.quire}
port=${QUIRE_PORT:-9997}
endpoint=http://127.0.0.1:$port
export QUIRE_ENDPOINT=$endpoint
quire=build/release/quire
pid_file=$QUIRE_HOME/run.pid
log=$QUIRE_HOME/logs/cluster.log

# The pid in the file, if it still is a process of ours.
running_pid() {
    local pid
    pid=$(cat "$pid_file" 2> /dev/null) || return 1
    [ -n "$pid" ] && tr '\0' ' ' 2> /dev/null < "/proc/$pid/cmdline" | grep -q 'quire start' || return 1
    echo "$pid"
}

stop() {
    local pid
    if ! pid=$(running_pid); then
        rm -f "$pid_file"
        echo "Quire is not running."
        return 0
    fi
    kill -TERM "$pid"
    for _ in $(seq 100); do
        if ! kill -0 "$pid" 2> /dev/null; then
            rm -f "$pid_file"
            echo "Quire stopped."
            return 0
        fi
        sleep 0.1
    done
    echo "Quire (process $pid) did not stop within 10 s; see $log" >&2
    return 1
}

model=smollm2
case "${1:-}" in
stop)
    stop
    exit
    ;;
--model)
    model=${2:?--model needs a name: smollm2 or story}
    ;;
--model=*)
    model=${1#--model=}
    ;;
'') ;;
*)
    sed -n '3,10p' "$0" | sed 's/^# \{0,1\}//'
    [ "$1" = --help ] || [ "$1" = -h ] || exit 2
    exit 0
    ;;
esac

deploy/install-deps.sh
[ -f build/release/build.ninja ] || cmake --preset release > build-configure.log 2>&1 || {
    cat build-configure.log >&2
    exit 1
}
rm -f build-configure.log
ninja -C build/release --quiet quire | { grep -v "no work to do" || true; }

mkdir -p "$QUIRE_HOME/logs"
if ! running_pid > /dev/null; then
    if timeout 5 "$quire" list > /dev/null 2>&1; then
        echo "Another cluster answers at $endpoint. Choose another port: QUIRE_PORT=9998 $0" >&2
        exit 1
    fi
    echo "Starting a local cluster on $endpoint ..."
    # Its own session, so that closing this terminal or Ctrl-C leaves it running.
    setsid "$quire" start -p "$port" < /dev/null > "$log" 2>&1 &
    echo $! > "$pid_file"
    for _ in $(seq 100); do
        "$quire" list > /dev/null 2>&1 && break
        running_pid > /dev/null || break
        sleep 0.1
    done
    if ! "$quire" list > /dev/null 2>&1; then
        echo "The cluster did not start. Its last words ($log):" >&2
        tail -n 5 "$log" >&2
        exit 1
    fi
fi

has_model() {
    "$quire" list 2>&1 | awk '{ print $1 }' | grep -qx "$1"
}

launch() {
    has_model "$1" || "$quire" launch --model-name "$1" --model-uid "$1"
}

if ! launch "$model"; then
    [ "$model" = smollm2 ] || exit 1
    echo "smollm2 could not be fetched; taking the built-in model instead."
    model=story
    launch story
fi

if [ "$model" = story ]; then
    echo "The model \"story\" continues children's stories. It does not chat."
fi
if [ -t 0 ] && [ -t 1 ]; then
    if [ "$model" = story ]; then
        "$quire" generate --model-uid story || true
    else
        "$quire" chat --model-uid "$model" || true
    fi
    echo "The cluster goes on in the background: $endpoint/v1. Stop it with ./run.sh stop"
    exit 0
fi

if [ "$model" = story ]; then
    "$quire" generate --model-uid story --temperature 0 --max-tokens 120 "Once upon a time"
    path=completions
    body='{"model": "story", "prompt": "Once upon a time", "max_tokens": 60}'
else
    question="What is gravity?"
    echo "> $question"
    "$quire" chat --model-uid "$model" --temperature 0 --max-tokens 120 "$question"
    path=chat/completions
    body='{"model": "'$model'", "messages": [{"role": "user", "content": "Hello!"}]}'
fi
cat << END

Endpoint (OpenAI-compatible): $endpoint/v1
Try it:
  curl $endpoint/v1/$path -H 'Content-Type: application/json' \\
       -d '$body'
Stop everything: ./run.sh stop
END
