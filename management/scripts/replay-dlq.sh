#!/bin/sh
# Replay dead letters over REST, from a machine that has a shell and curl. `replay-dlq.sh --help` says how.
set -eu

usage() {
    cat <<'END'
replay-dlq.sh [OPTION]... [--] [ID]...

Replay dead letters in one batch: those with the given ids (message id or _id), or those that match a filter.
The script shows their number and asks for confirmation, unless --yes is given. Put -- before ids that begin with a dash.

Filters; a letter must match all of them. Repeat an option to allow several values:
  --status STATUS       --error-type TYPE     --error-kind KIND     --type TYPE
  --source SOURCE       --priority PRIORITY   --tag TAG             --fingerprint GROUP
  --client NAME         --code-version TEXT   --facet NAME=VALUE    --search TEXT
  --from INSTANT        --to INSTANT
  --all                 every letter; required when there is no other filter
  --limit N             replay at most N letters

Batch:
  --rate N              letters per second
  --canary N            send N letters first, and the others only if these succeed
  --min-success N       with --canary: continue if at least N of the first succeed (default: all of them)
  --max-failures N      stop when more than N fail
  --max-failure-rate R  stop when a larger share of the outcomes are failures (0 to 1)
  --poison              also letters with WORKER_LOST, which probably kill a worker: each once, alone in a process
  --schedule INSTANT    do not start before this time, for example 2026-11-24T03:12:00Z
  --name TEXT, --reason TEXT

  --dry-run             show what would be replayed; change nothing
  --wait                wait for the outcome of every letter
  --yes                 do not ask
  --json                print the answers of the API, one JSON object per line
  --url URL             address of the system (default: DLQ_URL, else http://127.0.0.1:8000)
  --key-file FILE       file with the API key (default: DLQ_API_KEY). There is no option for the key itself:
                        every user of this machine could read it in the process list.

Exit code: 0 success (with --wait: every letter succeeded), 2 some letters failed or were left out, 1 error.
END
}

die() {
    printf 'replay-dlq: %s\n' "$*" >&2
    exit 1
}

# --- JSON, as far as it is needed here ---

# The argument as the inside of a JSON text, or of a quoted value in curl's configuration: both escape the same way.
escaped() {
    printf '%s' "$1" | sed 's/[\\"]/\\&/g'
}

# Add a criterion: its name, its flag, one of its values.
filter() {
    text "$2" "$3"
    values=$(eval "printf '%s' \"\${filter_$1-}\"")
    values="${values:+$values,}\"$(escaped "$3")\""
    eval "filter_$1=\$values"
}

# Refuse what could not be sent as a text; an empty one would silently mean "any".
text() {
    case $2 in
        '') die "$1 is empty" ;;
        *[[:cntrl:]]*) die "$1 must not contain control characters" ;;
    esac
}

whole() {
    case $2 in
        '' | *[!0-9]* | 0[0-9]*) die "$1 must be a whole number" ;;
    esac
}

decimal() {
    case $2 in
        '' | *[!0-9.]* | *.*.* | .* | *. | 0[0-9]*) die "$1 must be a number" ;;
    esac
}

# Add a field to the body: its name, its JSON value.
field() {
    body="${body:+$body,}\"$1\":$2"
}

# What the answer holds under the given name, first found: a number, a text that needs no unescaping, or nothing.
# Inside a text every quote is escaped, so that `"name":` is never a part of one.
answered() {
    printf '%s\n' "$answer" | awk -v name="\"$1\":" '
        { at = index($0, name) }
        at {
            rest = substr($0, at + length(name))
            if (match(rest, /^"[^"\\]*"/)) print substr(rest, 2, RLENGTH - 2)
            else if (match(rest, /^[0-9.]+/)) print substr(rest, 1, RLENGTH)
            exit
        }'
}

# The same for an object or a list of plain objects, as words for people; nothing that could steer a terminal.
counted() {
    printf '%s\n' "$answer" | awk -v name="\"$1\":" '
        { at = index($0, name) }
        at {
            rest = substr($0, at + length(name))
            end = substr(rest, 1, 1) == "[" ? "]" : "}"
            rest = substr(rest, 2, index(rest, end) - 2)
            gsub(/\},\{/, ", ", rest)
            gsub(/,"count":/, " ", rest)
            gsub(/"why":|[{}"]/, "", rest)
            gsub(/[^A-Za-z0-9_.,: -]/, "?", rest)
            gsub(/,/, ", ", rest)
            gsub(/:/, " ", rest)
            gsub(/  +/, " ", rest)
            print rest
            exit
        }'
}

letters() {
    if [ "$1" = 1 ]; then echo '1 letter'; else echo "$1 letters"; fi
}

# --- talking to the API ---

# The configuration of curl, for its standard input: the key must not appear in the process list.
configuration() {
    printf 'url = "%s"\n' "$(escaped "$url$2")"
    printf 'request = "%s"\n' "$1"
    printf 'header = "Authorization: Api-Key %s"\n' "$(escaped "$key")"
    printf 'header = "Accept: application/json, application/problem+json"\n'
    if [ -n "${3-}" ]; then
        printf 'header = "Content-Type: application/json"\n'
        printf 'data-raw = "%s"\n' "$(escaped "$3")"
    fi
    if [ -n "${4-}" ]; then
        printf 'header = "Idempotency-Key: %s"\n' "$4"
    fi
    printf 'silent\nshow-error\ngloboff\nmax-time = 60\nwrite-out = "\\n%%{http_code}"\n'
}

# TRIES METHOD PATH [BODY [IDEMPOTENCY-KEY]]: sets answer and code. No answer, 429 and 503 are asked again.
ask() {
    tries=$1
    shift
    pause=1
    while :; do
        if answer=$(configuration "$@" | curl --config -); then
            code=${answer##*"$newline"}
            answer=${answer%"$newline"*}
        else
            code=000
        fi
        tries=$((tries - 1))
        case $code in
            000 | 429 | 503) [ "$tries" -gt 0 ] || break ;;
            *) break ;;
        esac
        sleep "$pause"
        [ "$pause" -ge 8 ] || pause=$((pause * 2))
    done
}

# Die unless the last answer is a good one.
must() {
    case $code in
        200 | 202) ;;
        000) die "$url does not answer" ;;
        *) die "$(refusal)" ;;
    esac
}

# The refusal in words: its code and what it says, without anything that could steer a terminal.
refusal() {
    printf '%s\n' "$answer" | awk -v status="$code" '
        function text(name,    at, rest) {
            at = index($0, "\"" name "\":\"")
            if (!at) return ""
            rest = substr($0, at + length(name) + 4)
            gsub(/\\\\/, "\001", rest)
            gsub(/\\"/, "\002", rest)
            rest = substr(rest, 1, index(rest, "\"") - 1)
            gsub(/\002/, "\"", rest)
            gsub(/\001/, "\\", rest)
            return rest
        }
        { print status " " text("code") ": " text("detail"); exit }' | LC_ALL=C tr -d '\000-\011\013-\037\177' |
        sed 's/  *: *$/ is all that was answered/'
}

# The answer without its envelope.
data() {
    inner=${answer#'{"data":'}
    printf '%s\n' "${inner%\}}"
}

# --- what was asked for ---

newline='
'
url=${DLQ_URL:-http://127.0.0.1:8000}
key=${DLQ_API_KEY-}
body='' ids='' canary='' least='' everything='' dry_run='' wait='' yes='' json='' filtered=''

while [ $# -gt 0 ]; do
    flag=$1
    shift
    case $flag in
        --all | --poison | --dry-run | --wait | --yes | --json | -h | --help | --) ;;
        --*=*)
            value=${flag#*=}
            flag=${flag%%=*}
            ;;
        --*)
            [ $# -gt 0 ] || die "$flag needs a value"
            value=$1
            shift
            ;;
    esac
    case $flag in
        --status) filter status "$flag" "$value" ;;
        --error-type) filter errorType "$flag" "$value" ;;
        --error-kind) filter errorKind "$flag" "$value" ;;
        --type) filter type "$flag" "$value" ;;
        --source) filter source "$flag" "$value" ;;
        --priority) filter priority "$flag" "$value" ;;
        --tag) filter tag "$flag" "$value" ;;
        --fingerprint) filter fingerprint "$flag" "$value" ;;
        --client) filter client "$flag" "$value" ;;
        --code-version) filter codeVersion "$flag" "$value" ;;
        --facet) filter facet "$flag" "$value" ;;
        --from) filter from "$flag" "$value" ;;
        --to) filter to "$flag" "$value" ;;
        --search) filter search "$flag" "$value" ;;
        --limit) whole "$flag" "$value" && field limit "$value" ;;
        --rate) decimal "$flag" "$value" && field ratePerSecond "$value" ;;
        --canary) whole "$flag" "$value" && canary=$value ;;
        --min-success) whole "$flag" "$value" && least=$value ;;
        --max-failures) whole "$flag" "$value" && field maxFailures "$value" ;;
        --max-failure-rate) decimal "$flag" "$value" && field maxFailureRate "$value" ;;
        --schedule) text "$flag" "$value" && field scheduledAt "\"$(escaped "$value")\"" ;;
        --name) text "$flag" "$value" && field name "\"$(escaped "$value")\"" ;;
        --reason) text "$flag" "$value" && field reason "\"$(escaped "$value")\"" ;;
        --poison) field poison true ;;
        --all) everything=1 ;;
        --dry-run) dry_run=1 ;;
        --wait) wait=1 ;;
        --yes) yes=1 ;;
        --json) json=1 ;;
        --url) url=$value ;;
        --key-file) [ -r "$value" ] || die "$value cannot be read" && key=$(sed 1q "$value" | tr -d '\r') ;;
        -h | --help) usage && exit 0 ;;
        --) break ;;
        -*) die "there is no $flag; see --help" ;;
        *) text "an id" "$flag" && ids="${ids:+$ids,}\"$(escaped "$flag")\"" ;;
    esac
done
for id in "$@"; do
    text "an id" "$id" && ids="${ids:+$ids,}\"$(escaped "$id")\""
done

command -v curl >/dev/null || die "curl is not installed"
case $url in
    http://?* | https://?*) url=${url%/} ;;
    *) die "$url is no http or https address" ;;
esac
case $key in
    '') die "set DLQ_API_KEY, or give --key-file" ;;
    *[[:cntrl:]]*) die "the API key must be one line" ;;
esac

for name in status errorType errorKind type source priority tag fingerprint client codeVersion facet from to search; do
    values=$(eval "printf '%s' \"\${filter_$name-}\"")
    [ -n "$values" ] || continue
    filtered="${filtered:+$filtered,}\"$name\":[$values]"
done
[ -z "$filtered" ] || field filter "{$filtered}"
[ -z "$ids" ] || field ids "[$ids]"
[ -z "$everything" ] || field all true
[ -n "$canary" ] || [ -z "$least" ] || die "--min-success needs --canary"
[ -z "$canary" ] || field canary "{\"size\":$canary${least:+,\"minSuccess\":$least}}"
[ -n "$filtered$ids$everything" ] || die "say which letters: ids, a filter, or --all for every letter"

# --- what would be replayed ---

batches=/api/dlq/replay-batch
ask 1 POST $batches "{$body,\"dryRun\":true}"
must
count=$(answered count)
if [ -n "$json" ]; then
    [ -z "$dry_run" ] || data
else
    echo "$(letters "$count") would be replayed."
    for part in 'byErrorType:by error type' 'byType:by type' 'leftOut:left out'; do
        words=$(counted "${part%%:*}")
        [ -z "$words" ] || echo "  ${part#*:}: $words"
    done
    failures=$(answered failuresAtMost)
    case $failures in
        '' | null) ;;
        *) echo "  at most $failures of them can fail before the batch stops automatically" ;;
    esac
fi
[ -z "$dry_run" ] || exit 0
# Each id was meant; a filter may well fit letters that need no replay.
left_out=''
if [ -n "$ids" ]; then
    left_out=$(counted leftOut | sed 's/limit [0-9]*//; s/[ ,]//g')
fi
if [ "$count" = 0 ]; then
    [ -z "$ids" ] || exit 2
    exit 0
fi
if [ -z "$yes" ]; then
    [ -t 0 ] || die "there is no terminal to ask at; say --yes"
    printf 'Replay %s? [y/N] ' "$(letters "$count")" >&2
    read -r reply || reply=''
    case $reply in
        [yY] | [yY][eE][sS]) ;;
        *) die "nothing was started" ;;
    esac
fi

# --- start ---

# A key of our own: a request whose answer was lost is repeated, and starts nothing twice.
ask 6 POST $batches "{$body}" "$(od -An -N16 -tx1 /dev/urandom | tr -d ' \n')"
must
batch=$(answered batchId)
total=$(answered total)
address=/api/dlq/replay-batches/$batch
if [ -z "$wait" ]; then
    if [ -n "$json" ]; then data; else echo "Batch $batch with $(letters "$total"): $url$address"; fi
    exit 0
fi

# --- wait ---

leave() {
    printf '\n%s\n' "The batch continues. Watch: GET $url$address - cancel: POST $url$address/cancel" >&2
    exit 130
}
trap leave INT TERM

told=0
now=0
while :; do
    stage=$(answered stage)
    failed=$(answered failed)
    skipped=$(answered skipped)
    line="$stage: $(answered remaining) of $total left, $(answered succeeded) succeeded, $failed failed, $skipped skipped"
    if [ -n "$json" ]; then
        data
    elif [ -t 1 ]; then
        printf '\r%-78s' "$line"
    elif [ "$now" -ge "$told" ]; then
        echo "$line"
        told=$((now + 6))
    fi
    case $stage in
        finished | cancelled | stopped) [ "$(answered remaining)" != 0 ] || break ;;
    esac
    sleep 2
    now=$((now + 2))
    # As long as a restart of everything may take.
    ask 12 GET "$address"
    must
done
reason=$(answered stopReason)
ask 5 GET "$address/report"
must
if [ -z "$json" ]; then
    [ ! -t 1 ] || echo
    echo "Batch $batch is $stage${reason:+ ($reason)}: $(letters "$total")"
    printf '%s\n' "$answer" | awk -F '[{}]' '{
        for (i = 3; i < NF; i += 2) {
            gsub(/"outcome":|"errorType":|"count":|"|null/, "", $i)
            gsub(/[^A-Za-z0-9_:., -]/, "?", $i)
            split($i, part, ",")
            print "  " part[3] "  " part[1] (part[2] == "" ? "" : "  " part[2])
        }
    }'
fi
[ "$stage" = finished ] && [ "$failed" = 0 ] && [ "$skipped" = 0 ] && [ -z "$left_out" ] || exit 2
